"""What is true now: the objects that ``tpnet status``, ``list`` and ``watch`` show. Plain data, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpnet.model.objects import Intercept


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The agent itself. ``redirect`` is the kind in use, ``redirect_reason`` why that one.

    ``worker_silent``: for how many seconds the worker has given no sign of life, once that is so long that the kernel
    passes new connections to the apps; 0 otherwise.
    """

    version: str
    pid: int
    kernel: str
    node: str
    redirect: str
    redirect_reason: str
    wireguard: str
    worker_pids: tuple[int, ...] = ()
    worker_restarts: int = 0
    worker_silent: float = 0.0
    memory_kib: int = 0
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One listening port inside one network namespace.

    ``ready`` is whether new connections are redirected at this moment; ``reason`` says why not.
    ``open`` counts client connections that the workers hold. ``verdicts`` counts requests by verdict letter
    (F A P R B, plus ``F:app`` for requests that no intercept took). ``left``: no intercept stands there any more, and
    ``open`` connections that came while one did still pass through.
    """

    name: str
    port: int
    ready: bool
    reason: str = ""
    redirect: str = ""
    addresses: tuple[str, ...] = ()
    open: int = 0
    requests: int = 0
    app_requests: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    since: float = 0.0
    left: bool = False


@dataclass(frozen=True, slots=True)
class InterceptStatus:
    """An intercept and how it fares. ``ready`` of ``total`` targets are redirected; ``problems`` has a sentence each.

    ``hits`` counts requests that the session took; ``reasons`` counts matched requests that it did not, by reason.
    ``last_hit`` is in Unix seconds, 0 for never. ``handler_problem`` says why the handler is not there, to whom it is
    known.
    """

    intercept: Intercept
    ready: int = 0
    total: int = 0
    handler_up: bool = False
    session_up: bool = False
    hits: int = 0
    last_hit: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    handler_problem: str = ""


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A session as the agent sees it. Times in seconds; ``rtt_ms`` is the tunnel's round trip, 0 while unknown.

    ``mtu``: bytes of the largest packet that passes through the tunnel; 0 when only the smallest do.
    """

    name: str
    user: str
    public_key: str
    address: str
    up: bool
    endpoint: str = ""
    lease_left: float = 0.0
    last_seen: float = 0.0
    rtt_ms: float = 0.0
    since: float = 0.0
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """Everything at once, as one reply of the agent."""

    agent: AgentStatus
    targets: tuple[TargetStatus, ...] = ()
    intercepts: tuple[InterceptStatus, ...] = ()
    sessions: tuple[SessionStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """One target that a user's text stood for, and the TCP ports that listen in it.

    ``listening`` can be reached by others; ``loopback`` only by the target itself. ``port_names``, where ports have
    any, are those of ``listening``, in its order.
    """

    name: str
    listening: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    loopback: tuple[int, ...] = ()
    port_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionGrant:
    """What the agent tells a session that has registered. ``lease`` in seconds; ``endpoints`` are ``host:port``."""

    session: str
    address: str
    agent_public_key: str
    agent_address: str
    heartbeat_port: int
    endpoints: tuple[str, ...]
    lease: float
    mtu: int


@dataclass(frozen=True, slots=True)
class ExplainStep:
    """One intercept's answer in a dry run: which of its rules hold. ``chosen`` marks the one that takes the request."""

    intercept: str
    user: str
    checks: tuple[tuple[str, bool], ...]
    matches: bool
    chosen: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A dry run of one request: the intercepts in order of precedence, and where it goes. Empty ``to``: the app."""

    steps: tuple[ExplainStep, ...]
    to: str = ""
    handler: str = ""
    reason: str = ""
