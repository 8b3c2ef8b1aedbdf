"""Which cluster, as whom, where in it: kubectl's flags as plain data. Imports nothing heavy.

The command line fills it in, hands it to ``tpnet.control.kubernetes.client.connect``, and gives it to the session
daemon that it starts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What is ``None`` or empty is as the kubeconfig says. ``request_timeout`` in seconds, 0: the default."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False
    as_user: str = ""
    as_groups: tuple[str, ...] = ()
    request_timeout: float = 0.0
    labels: str = ""

    def to_json(self) -> str:
        """For another process's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ClusterOptions:
        """The inverse of ``to_json``."""
        data = json.loads(text)
        data["as_groups"] = tuple(data["as_groups"])
        return cls(**data)

    @property
    def key(self) -> str:
        """A short name for the cluster and the identity: what one session daemon serves."""
        facts = json.dumps([self.kubeconfig, self.context, self.as_user, *self.as_groups])
        return hashlib.sha256(facts.encode()).hexdigest()[:8]
