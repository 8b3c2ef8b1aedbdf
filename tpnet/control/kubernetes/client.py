"""``tpnet.control.Control`` on a cluster: the developer's intercepts and session as objects of the API server.

The command line and the session daemon call it from any thread; the API's own event loop runs in a thread of its
own. It must never take an agent's key from anywhere but its NodeAgent, nor change an object of somebody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tpnet.control.dry_run import explain_head, request_head
from tpnet.control.kubernetes.api import Api, label_is
from tpnet.control.kubernetes.convert import from_api, to_api
from tpnet.control.kubernetes.copies import SESSION_LABEL, Copies, nodes_of
from tpnet.control.kubernetes.create import create, refusal
from tpnet.control.kubernetes.names import COMPUTER, MANAGER_CLIENT, session_name
from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.control.kubernetes.resources import (
    INTERCEPTS,
    NAMESPACES,
    NODE_AGENTS,
    SERVICES,
    SESSIONS,
    SYSTEM_NAMESPACE,
)
from tpnet.control.kubernetes.targets import (
    PLURALS,
    interceptable,
    label_of,
    one_port,
    parse_target,
    ports_of,
    split_name,
)
from tpnet.control.kubernetes.view import model_intercept, status_of, target_statuses
from tpnet.model import (
    AgentStatus,
    Conflict,
    Handler,
    InvalidInput,
    NodeAgentSpec,
    NotThere,
    Refused,
    SessionSpec,
    Status,
    TargetInfo,
    TargetKind,
    TargetRef,
    TpnetError,
    split_handler,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from tpnet.control.kubernetes.api import Object
    from tpnet.model import Explanation, Intercept, InterceptStatus

__all__ = ["ClusterControl", "ClusterOptions", "connect"]

T = TypeVar("T")


def connect(options: ClusterOptions) -> ClusterControl:
    """Speak to the API server that ``options`` name. Raises ``NotThere``, ``InvalidInput``, ``Refused``."""
    return ClusterControl(options)


class ClusterControl:
    """One cluster, as one user. ``namespace`` is where names without one are looked up."""

    def __init__(self, options: ClusterOptions) -> None:
        """Raises ``TpnetError`` when the kubeconfig cannot be used, or the API server does not answer."""
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubernetes", daemon=True)
        self._thread.start()
        self._followed: Copies | None = None
        self._api: Api | None = None
        try:
            self._api = self._run(
                Api.from_kubeconfig(
                    options.kubeconfig, options.context, user=options.as_user, groups=options.as_groups
                )
            )
            self._followed = Copies(self._api)
            if options.request_timeout:
                self.api.seconds = options.request_timeout
            self.namespace = options.namespace or self.api.namespace
            self.server = self.api.server
            self.context = options.context or ""
            self.user, self.groups = self._run(self.api.whoami())
        except BaseException:
            self.close()
            raise

    @property
    def api(self) -> Api:
        """The API itself; its coroutines run in ``call``."""
        assert self._api is not None, "connected"
        return self._api

    @property
    def _copies(self) -> Copies:
        assert self._followed is not None, "connected"
        return self._followed

    def call(self, make: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine with the API to its end, from any thread. Raises what it raises."""
        return self._run(make(self.api))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread. Further calls do nothing."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TpnetError):
            self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        if self._followed is not None:
            await self._followed.close()
        if self._api is not None:
            await self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What there is.

    def info(self) -> AgentStatus:
        """The newest agent of the cluster, as far as its NodeAgent tells. See ``Control``."""
        agents = self._run(self._agents())
        if not agents:
            raise NotThere(
                "No agent of tpnet runs in this cluster.",
                "An admin installs them: tpnet install (or: kubectl -n tpnet get pods)",
            )
        name, spec = max(agents.items(), key=lambda item: _numbers(item[1].version))
        return AgentStatus(
            version=spec.version,
            pid=0,
            kernel="",
            node=f"{len(agents)} nodes" if len(agents) > 1 else name,
            redirect=spec.redirect,
            redirect_reason="",
            wireguard="",
        )

    async def _agents(self) -> dict[str, NodeAgentSpec]:
        items, _ = await self._installed(self.api.list(NODE_AGENTS))
        return {item["metadata"]["name"]: from_api(NodeAgentSpec, item["spec"]) for item in items}

    async def _installed(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives that asks for kinds of ours. That there are none gets its own sentence."""
        try:
            return await coroutine
        except (NotThere, Refused) as error:
            # Of a kind that there is not, whoever has no right to it is told of the missing right.
            missing = isinstance(error, Refused) and not await self._has_kinds()
            missing |= "could not find the requested resource" in error.message
            if missing or "page not found" in error.message:
                raise NotThere(
                    "tpnet is not installed in this cluster.", "An admin installs it: tpnet install"
                ) from error
            raise

    async def _has_kinds(self) -> bool:
        """Whether our kinds are there, or may be."""
        try:
            return await self.api.serves(INTERCEPTS)
        except TpnetError:
            return True

    def resolve(self, target: str) -> list[TargetInfo]:
        """See ``Control``. ``[svc/]NAME``, ``deploy/NAME``, ``sts/NAME``, ``ds/NAME``, ``pod/NAME``."""
        return [self._run(self._resolve(target))]

    async def _resolve(self, target: str, namespace: str = "") -> TargetInfo:
        ref, namespace = parse_target(target), namespace or self.namespace
        obj = await self._object(target, namespace)
        ports = ports_of(ref.kind, obj)
        service = ref.kind is TargetKind.SERVICE
        address = f"{ref.name}.{namespace}" if service else obj.get("status", {}).get("podIP") or ""
        return TargetInfo(
            name=f"{namespace}/{label_of(ref)}",
            listening=tuple(number for _, number in ports),
            addresses=(address,) if address else (),
            port_names=tuple(name for name, _ in ports),
        )

    async def _object(self, target: str, namespace: str) -> Object:
        ref = parse_target(target)
        try:
            return await self.api.get(PLURALS[ref.kind], ref.name, namespace)
        except NotThere as error:
            if "not found" not in error.message:
                raise
            known, _ = await self.api.list(PLURALS[ref.kind], namespace, limit=50)
            names = sorted(item["metadata"]["name"] for item in known if interceptable(ref.kind, item))
            raise NotThere(
                f"There is no {ref.kind} {ref.name} in {namespace}.",
                f"There are: {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}."
                if names
                else "Another namespace? Name it with -n.",
            ) from error

    def complete(self, kind: str, target: str = "") -> list[str]:
        """Words for the shell: ``services``, ``ports`` (of ``target``), ``intercepts``, ``namespaces``."""
        return self._run(self._complete(kind, target))

    async def _complete(self, kind: str, target: str) -> list[str]:
        if kind == "ports":
            return [str(port) for port in (await self._resolve(target)).listening]
        resource, namespace = {
            "services": (SERVICES, self.namespace),
            "intercepts": (INTERCEPTS, self.namespace),
            "namespaces": (NAMESPACES, ""),
        }[kind]
        items, _ = await self.api.list(resource, namespace, limit=500)
        return sorted(item["metadata"]["name"] for item in items)

    # Sessions.

    def begin_session(self, public_key: str) -> str:
        """Make a Session of this user with this key; its name."""
        name = session_name(self.user)
        spec = SessionSpec(user=self.user, public_key=public_key, renew_time=_now())
        meta = {"name": name, "namespace": SYSTEM_NAMESPACE, "annotations": {COMPUTER: socket.gethostname()}}
        obj = {"metadata": meta, "spec": to_api(spec)}
        self._run(self._installed(self.api.create(SESSIONS, obj, manager=MANAGER_CLIENT)))
        return name

    def renew(self, name: str) -> None:
        """Renew the lease. Raises ``NotThere`` when the session is gone."""
        self._run(self.api.merge(SESSIONS, name, SYSTEM_NAMESPACE, {"spec": {"renewTime": _now()}}))

    def end_session(self, name: str) -> None:
        """Delete the Session. See ``Control``."""
        self._run(self.api.delete(SESSIONS, name, SYSTEM_NAMESPACE))

    # Following one's own intercepts, and the agents that serve them.

    def follow(self, namespace: str, session: str, changed: Callable[[], None]) -> None:
        """Keep a copy of the session's intercepts in ``namespace``; ``changed`` is called from another thread."""
        self._run(self._copies.follow(namespace, session, changed))

    def follow_unclaimed(self, namespace: str, changed: Callable[[], None]) -> None:
        """Keep a copy of the intercepts in ``namespace`` that no session has taken; ``changed`` as for ``follow``."""
        self._run(self._copies.follow(namespace, "", changed))

    def unclaimed(self, session: str) -> list[Intercept]:
        """This user's intercepts that wait for a session, as made with kubectl; those that ``session`` can serve.

        Raises ``TpnetError`` when the API server does not answer. One that cannot be served is passed over.
        """
        found = []
        for item in self._copies.objects(""):
            spec, meta = item["spec"], item["metadata"]
            mine = spec["user"] == self.user and spec.get("session", "") in {"", session}
            if mine and "deletionTimestamp" not in meta:
                with contextlib.suppress(InvalidInput, NotThere):
                    found.append(replace(model_intercept(item), handler=self._handler_of(item)))
        return found

    def _handler_of(self, item: Object) -> str:
        """What answers an intercept's requests, with the target's port where it names none."""
        spec = item["spec"]
        text = str(spec.get("handler", ""))
        try:
            host, named = split_handler(text)
        except InvalidInput:
            return text  # whoever is to serve it says so
        if named is not None:
            return text
        port = spec.get("port")
        if not isinstance(port, int):
            target = from_api(TargetRef, spec["target"])
            info = self._run(self._resolve(label_of(target), item["metadata"]["namespace"]))
            port = one_port(info, port)
        return str(Handler(host, port))

    def claim(self, intercept: Intercept) -> None:
        """Take an intercept of this user that has no session for the one that ``intercept`` names.

        Raises ``NotThere`` when it is gone, ``Conflict`` when another session was faster.
        """
        namespace, name = split_name(intercept.name)

        async def take() -> None:
            there = await self.api.get(INTERCEPTS, name, namespace)
            if there["spec"].get("session", "") not in {"", intercept.session}:
                raise Conflict(f"Another session of yours has taken {intercept.name}.")
            spec = {
                "session": intercept.session,
                "tunnelPort": intercept.tunnel_port,
                "handler": intercept.handler,
            }
            meta = {
                "labels": {SESSION_LABEL: intercept.session},
                "resourceVersion": there["metadata"]["resourceVersion"],
            }
            await self.api.merge(INTERCEPTS, name, namespace, {"metadata": meta, "spec": spec})

        self._run(take())

    def nodes(self, session: str) -> set[str]:
        """The nodes whose agents have said something of the session's followed intercepts."""
        return {node for item in self._copies.objects(session) for node in nodes_of(item)}

    def agent(self, node: str) -> NodeAgentSpec:
        """A node's agent. Raises ``NotThere``."""
        return from_api(NodeAgentSpec, self._run(self.api.get(NODE_AGENTS, node))["spec"])

    # Intercepts.

    def create_intercept(self, intercept: Intercept) -> InterceptStatus:
        """Create it, and wait for the agents: until it is Ready, refused, or ten seconds are over.

        See ``Control``. ``intercept.name`` is ``namespace/name``, ``target`` as ``resolve`` takes it, ``port`` 0 for
        the only one.
        """
        return status_of(self._run(self._create(intercept)))

    async def _create(self, intercept: Intercept) -> Object:
        made = await self._installed(create(self.api, self.user, intercept))
        await self._copies.caught_up(made)
        return made

    def delete_intercept(self, name: str, user: str, force: bool = False) -> dict[str, int]:
        """See ``Control``. Whose it is, the API server knows."""
        del user, force
        namespace, short = split_name(name, self.namespace)
        if not self._run(self._installed(self.api.delete(INTERCEPTS, short, namespace))):
            raise NotThere(
                f"There is no intercept {short} in {namespace}.",
                f"tpnet list -n {namespace} shows those that there are.",
            )
        return {"draining": 0}

    def standing(self, session: str) -> set[str]:
        """See ``Control``; in the namespaces that are followed."""
        return self._run(self._standing(session))

    async def _standing(self, session: str) -> set[str]:
        names = set()
        for namespace in self._copies.namespaces(session):
            try:
                items, _ = await self.api.list(INTERCEPTS, namespace, labels=label_is(SESSION_LABEL, session))
            except Refused:
                # A right was taken away, or the whole namespace: what the watch said last is what there is.
                items = self._copies.objects(session, namespace)
            names |= {f"{namespace}/{item['metadata']['name']}" for item in items}
        return names

    def status(self) -> Status:
        """The intercepts of the namespace (or of all), and the agents. See ``Control``."""
        items = self._run(self._list())
        return Status(
            agent=self.info(),
            intercepts=tuple(status_of(item) for item in items),
            targets=target_statuses(items),
        )

    async def _list(self) -> list[Object]:
        namespace = "" if self._options.all_namespaces else self.namespace
        items, _ = await self._installed(self.api.list(INTERCEPTS, namespace, labels=self._options.labels))
        return sorted(
            items, key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"])
        )

    def explain(
        self, target: str, port: int | None, method: str, path: str, headers: Sequence[tuple[str, str]]
    ) -> Explanation:
        """See ``Control``; of the intercepts of this very target."""
        head = request_head(method, path, headers)
        ref = parse_target(target)
        (info,) = self.resolve(target)
        items = [
            item
            for item in self._run(self._list())
            if item["spec"]["target"] == to_api(ref)
            and not refusal(item, item["metadata"]["generation"])
            and item["metadata"].get("namespace") == self.namespace
        ]
        statuses = {status.intercept.name: status for status in map(status_of, items)}
        resolve = functools.partial(one_port, info)
        found = []
        for serial, item in enumerate(items):
            # One that names no port of the target, or not which, takes nothing; the others are asked all the same.
            with contextlib.suppress(InvalidInput):
                found.append(model_intercept(item, serial, resolve(item["spec"].get("port"))))
        number = port or resolve(None, {one.port for one in found})

        def why_not(intercept: Intercept) -> str:
            return (
                "" if statuses[intercept.name].session_up else f"{intercept.user}'s session does not answer"
            )

        here = [one for one in found if one.port == number]
        return explain_head(here, head, why_not, f"no intercept stands on port {number}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", version))


def _now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"
