"""The objects of a cluster, where they differ from what runs on a node: one class for each part of each kind.

``tpnet.control.kubernetes.schema`` makes the CustomResourceDefinitions of these classes, and ``convert`` in the
same folder turns API data into them and back. What is common (header rules, path rules) is in ``objects``. Field
names are those of the API, in snake case; a field without a default is required. No behaviour, and never a field
that no one reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from tpnet.model.about import About
from tpnet.model.names import OBJECT_NAME
from tpnet.model.objects import CONNECT_SECONDS, MAX_CONNECT_SECONDS, HeaderRule, OnFailure, PathRule
from tpnet.text import ONE_LINE

MAX_HEADER_RULES = 32
"""Header rules of one intercept."""

_NAME = 253  # a DNS subdomain
_NAMED = f"^{OBJECT_NAME}$"
_WORD = "^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?)?$"  # as the reason of a metav1.Condition, or nothing
_TIME = "^[0-9TZ:.+-]*$"  # and what else a time has to be, its format says
_TIME_LENGTH = 64
_KEY = "^[A-Za-z0-9+/]{43}=$"
_MESSAGE = 1024
_ENDPOINTS = 1000  # of one node, in one status
_NODES = 5000
_REASONS = 32


class TargetKind(StrEnum):
    """What an intercept may be made of."""

    SERVICE = "Service"
    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    DAEMON_SET = "DaemonSet"
    POD = "Pod"


class ConditionStatus(StrEnum):
    """Kubernetes' three answers."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class TargetRef:
    """What is intercepted, in the intercept's own namespace."""

    kind: Annotated[TargetKind, About("The kind of the target.")]
    name: Annotated[
        str,
        About(
            "The name of the target, in the intercept's own namespace.",
            min_length=1,
            max_length=_NAME,
            pattern=_NAMED,
        ),
    ]


@dataclass(frozen=True, slots=True)
class InterceptSpec:
    """What is asked for: these requests of this port go to this session."""

    user: Annotated[
        str,
        About(
            "Whose intercept it is: the name by which the API server knows whoever makes it. It never changes, "
            "and no one can give another's name.",
            min_length=1,
            max_length=512,
            pattern=ONE_LINE,
        ),
    ]
    target: Annotated[
        TargetRef, About("What is intercepted, in the intercept's own namespace. It never changes.")
    ]
    headers: Annotated[
        tuple[HeaderRule, ...],
        About(
            "The headers that a request must carry; all of them must hold. An empty list makes a global intercept: it "
            "takes everybody's requests, which needs the verb intercept-all. It never changes.",
            max_items=MAX_HEADER_RULES,
        ),
    ]
    port: Annotated[
        int | str | None,
        About(
            "The port, by number or by name: of a Service the service's port, of all else a container's. It may be left "
            "out when there is only one. It never changes.",
            max_length=63,
            pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        ),
    ] = None
    path: Annotated[
        PathRule | None,
        About(
            "What the path of a request must be like, beside its headers. Without it: any. It never changes."
        ),
    ] = None
    handler: Annotated[
        str,
        About(
            "What answers the requests on the developer's computer: HOST:PORT, [IPV6]:PORT, or one of the two. Left out: "
            "localhost, which is 127.0.0.1 or ::1, and the number in port. Agents never use it.",
            max_length=512,
            pattern=ONE_LINE,
        ),
    ] = ""
    session: Annotated[
        str,
        About(
            "The name of the user's session in the namespace tpnet: where the requests go. The agents take it only if "
            "the session is of the same user. Left out: a session of that user fills it in (tpnet connect).",
            max_length=_NAME,
            pattern=f"^({OBJECT_NAME})?$",
        ),
    ] = ""
    tunnel_port: Annotated[
        int | None,
        About(
            "The TCP port at the session's tunnel address where its requests are taken. The session fills it in.",
            minimum=1,
            maximum=65535,
        ),
    ] = None
    connect_timeout_seconds: Annotated[
        int,
        About(
            "How long a matched request waits for the developer's process to be connected, in seconds, while the session "
            "answers. After that on_failure says what becomes of it. It never changes.",
            minimum=1,
            maximum=MAX_CONNECT_SECONDS,
        ),
    ] = CONNECT_SECONDS
    on_failure: Annotated[
        OnFailure,
        About(
            "What becomes of a matched request when the developer's end is not there: app lets the pod answer it, "
            "error answers 502. It never changes."
        ),
    ] = OnFailure.APP
    shared: Annotated[
        bool,
        About(
            "Whether narrower intercepts of other users win over this one, such as a team's. Otherwise the older of two "
            "users' intercepts wins wherever both match. It never changes."
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """One pod's port as its node sees it."""

    pod: Annotated[str, About("The name of the pod.", max_length=_NAME, pattern=_NAMED)]
    port: Annotated[int, About("The container's port.", minimum=0, maximum=65535)]
    ready: Annotated[
        bool, About("Whether new connections to it are redirected at this moment, and a probe has shown it.")
    ]
    ip: Annotated[str, About("The address of the pod.", max_length=45, pattern="^[0-9a-fA-F.:]*$")] = ""
    reason: Annotated[
        str,
        About(
            "Why it is not redirected, as a sentence; empty when it is.",
            max_length=_MESSAGE,
            pattern=ONE_LINE,
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class MissedReport:
    """How many matched requests did not reach their session, for one reason."""

    reason: Annotated[str, About("Why, in a few words.", min_length=1, max_length=_NAME, pattern=ONE_LINE)]
    count: Annotated[int, About("How many.", minimum=0)]


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node's part of an intercept. Only the agent of that node can write it."""

    node: Annotated[str, About("The name of the node.", min_length=1, max_length=_NAME, pattern=_NAMED)]
    ready: Annotated[
        int, About("How many of the target's ready endpoints on this node are redirected.", minimum=0)
    ]
    total: Annotated[int, About("How many ready endpoints the target has on this node.", minimum=0)]
    endpoints: Annotated[
        tuple[EndpointReport, ...],
        About("The endpoints of the target on this node, one by one.", max_items=_ENDPOINTS),
    ] = ()
    session_up: Annotated[bool, About("Whether the session answers through this node's tunnel.")] = False
    hits: Annotated[
        int, About("How many requests this node has sent to the session; it lags by half a minute.")
    ] = 0
    last_hit: Annotated[
        str, About("When it last sent one.", format="date-time", max_length=_TIME_LENGTH, pattern=_TIME)
    ] = ""
    missed: Annotated[
        tuple[MissedReport, ...],
        About(
            "Matched requests of this node that did not reach the session, by reason: the app answered them, or they "
            "got a 502; it lags by half a minute.",
            max_items=_REASONS,
            key="reason",
        ),
    ] = ()
    message: Annotated[
        str,
        About(
            "What is wrong on this node, as a sentence; empty when all is well.",
            max_length=_MESSAGE,
            pattern=ONE_LINE,
        ),
    ] = ""
    reason: Annotated[
        str,
        About(
            "Why the intercept is not carried out on this node, as one word for programs; empty when it is.",
            max_length=64,
            pattern=_WORD,
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """Kubernetes' ``metav1.Condition``."""

    type: Annotated[
        str,
        About(
            "Ready: every ready endpoint of the target is redirected and probed. Accepted: no older intercept takes the "
            "same requests, and everything it asks for is allowed.",
            max_length=316,
            pattern="^[A-Za-z0-9][A-Za-z0-9./_-]*$",
        ),
    ]
    status: Annotated[ConditionStatus, About("Whether it holds.")]
    reason: Annotated[
        str, About("Why, as one word for programs.", min_length=1, max_length=256, pattern=_WORD)
    ]
    message: Annotated[str, About("Why, as a sentence for people.", max_length=32768, pattern=ONE_LINE)]
    last_transition_time: Annotated[
        str,
        About("When the status last changed.", format="date-time", max_length=_TIME_LENGTH, pattern=_TIME),
    ]
    observed_generation: Annotated[
        int, About("The metadata.generation that this was said of.", minimum=0)
    ] = 0


@dataclass(frozen=True, slots=True)
class InterceptReport:
    """What is true of an intercept. Written by agents alone."""

    observed_generation: Annotated[
        int, About("The metadata.generation that the agents have seen.", minimum=0)
    ] = 0
    requests: Annotated[
        str,
        About(
            "Which requests it takes, in short, for tables: Coder: #cd9fb1e1 · /api…. Of a header's value it has the "
            "first digits of the SHA-256 alone.",
            max_length=_MESSAGE,
            pattern=ONE_LINE,
        ),
    ] = ""
    redirected: Annotated[
        str,
        About(
            "How many of the target's ready endpoints are redirected, for tables: 2/3.",
            max_length=32,
            pattern="^([0-9]+/[0-9]+)?$",
        ),
    ] = ""
    conditions: Annotated[
        tuple[Condition, ...], About("Ready and Accepted, each with its reason.", max_items=16, key="type")
    ] = ()
    nodes: Annotated[
        tuple[NodeReport, ...],
        About(
            "Each node's part; only the agent of a node can write that node's.", max_items=_NODES, key="node"
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A developer's live presence."""

    user: Annotated[
        str,
        About(
            "Whose session it is: the name by which the API server knows whoever makes it. It never changes.",
            min_length=1,
            max_length=512,
            pattern=ONE_LINE,
        ),
    ]
    public_key: Annotated[
        str,
        About(
            "The WireGuard public key of the session, in base64. Its tunnel address follows from it. It never changes: "
            "a new key is a new session.",
            max_length=44,
            pattern=_KEY,
        ),
    ]
    renew_time: Annotated[
        str,
        About(
            "When the session was last renewed.", format="date-time", max_length=_TIME_LENGTH, pattern=_TIME
        ),
    ]
    lease_seconds: Annotated[
        int,
        About(
            "For how many seconds after its renewal a session lives on. After that it is removed, and its intercepts "
            "with it.",
            minimum=5,
            maximum=120,
        ),
    ] = 30


@dataclass(frozen=True, slots=True)
class NodeAgentSpec:
    """What developers' computers need to know of a node's agent. Written by that agent alone."""

    public_key: Annotated[
        str,
        About(
            "The WireGuard public key of the agent, in base64. Developers' computers take it only from here.",
            max_length=44,
            pattern=_KEY,
        ),
    ]
    tunnel_address: Annotated[
        str,
        About(
            "The agent's address inside the tunnel; it follows from the key.", format="ipv6", max_length=45
        ),
    ]
    endpoints: Annotated[
        tuple[str, ...],
        About(
            "Where WireGuard's datagrams reach the agent by UDP, best first.",
            max_items=16,
            item=About(
                "An address and port, as host:port or [host]:port.",
                max_length=300,
                pattern="^[0-9A-Za-z_.:%[\\]-]+$",
            ),
        ),
    ]
    heartbeat_port: Annotated[
        int, About("The UDP port, inside the tunnel, that answers heartbeats.", minimum=1, maximum=65535)
    ]
    mtu: Annotated[int, About("The tunnel's MTU in bytes.", minimum=1280, maximum=65535)]
    version: Annotated[
        str, About("The version of tpnet that the agent runs.", max_length=64, pattern="^[0-9A-Za-z.+_-]*$")
    ] = ""
    redirect: Annotated[
        str,
        About(
            "How the agent redirects connections on this node, such as ebpf.",
            max_length=64,
            pattern=ONE_LINE,
        ),
    ] = ""
