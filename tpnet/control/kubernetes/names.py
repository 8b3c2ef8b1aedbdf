"""Names that tpnet uses in a cluster: verbs, labels, managers, accounts, roles. Each is written down once, here.

The manifests beside this file use the same names; a unit test compares them. Must never import anything heavy.
"""

from __future__ import annotations

import re
import secrets

from tpnet.control.kubernetes.resources import GROUP, SYSTEM_NAMESPACE

VERB_GLOBAL = "intercept-all"
"""The verb on intercepts that a global intercept needs."""
VERB_DELETE_ANY = "delete-any"
"""The verb on intercepts, sessions and nodeagents that lets an admin remove what is somebody else's."""

LIMIT_LABEL = f"{GROUP}/intercept"
"""The label of a namespace that says what may be intercepted in it: none, personal or all. Missing: all."""

AGENT_ACCOUNT = "tpnet-agent"
"""The service account and the DaemonSet of the agents, in the system namespace."""
AGENT_USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{AGENT_ACCOUNT}"
NODE_NAME_KEY = "authentication.kubernetes.io/node-name"
"""Where the API server says, in the extra part of a user, on which node the pod of a token runs."""

ROLE_DEVELOPER, ROLE_GLOBAL, ROLE_ADMIN = "tpnet-developer", "tpnet-global", "tpnet-admin"
"""ClusterRoles that admins bind; see ``grant``."""
ROLE_SESSION = "tpnet-session"
"""The Role (system namespace) and the ClusterRole that every developer needs besides: own sessions, agents' keys."""
DEVELOPERS = "tpnet:developers"
"""The group that has ``ROLE_SESSION``."""

MANAGER_INSTALL = "tpnet-install"
MANAGER_CLIENT = "tpnet"
MANAGER_CONDITIONS = "tpnet-conditions"
"""Field managers of server-side apply: what is installed, what a developer makes, an intercept's conditions."""

COMPUTER = f"{GROUP}/computer"
"""The annotation of a Session with the host name of the computer that its daemon runs on, for people."""

PART_OF = "app.kubernetes.io/part-of"
VERSION_LABEL = "app.kubernetes.io/version"
"""Labels of everything that is installed."""

SYSTEM_PREFIX = "kube-"
"""Namespaces of this prefix are Kubernetes' own."""


def node_manager(node: str) -> str:
    """The field manager of one node's part of a status. At most 128 characters, as the API server wants it."""
    return f"tpnet-agent-{node}"[:128]


def is_system(namespace: str) -> bool:
    """Whether nothing may be intercepted there: Kubernetes' own namespaces, and tpnet's."""
    return namespace == SYSTEM_NAMESPACE or namespace.startswith(SYSTEM_PREFIX)


def session_name(user: str) -> str:
    """A new name for a session of ``user``: readable, and not to be guessed."""
    slug = re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:40].rstrip("-")
    return f"{slug or 'session'}-{secrets.token_hex(4)}"
