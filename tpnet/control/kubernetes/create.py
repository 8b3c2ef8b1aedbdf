"""An Intercept object made, or one's own of before taken over, and followed until the agents have had their say.

``tpnet.control.kubernetes.client`` calls ``create``. It must never change an object of somebody else's, nor leave one
behind that it made for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tpnet.control.kubernetes.api import field_is
from tpnet.control.kubernetes.convert import from_api
from tpnet.control.kubernetes.copies import SESSION_LABEL
from tpnet.control.kubernetes.names import COMPUTER, MANAGER_CLIENT
from tpnet.control.kubernetes.resources import INTERCEPTS, SESSIONS, SYSTEM_NAMESPACE
from tpnet.control.kubernetes.targets import split_name
from tpnet.control.kubernetes.view import objects_of, status_of, unix_time
from tpnet.model import Conflict, InterceptSpec, InvalidInput, NotThere, Refused, SessionSpec, TpnetError
from tpnet.rules import older_takes, takes_all
from tpnet.rules.implies import same_rules

if TYPE_CHECKING:
    from tpnet.control.kubernetes.api import Api, Object
    from tpnet.model import Intercept

READY_SECONDS = 10.0
"""Seconds that ``create`` waits for the agents; afterwards it gives what they have said until then."""
NOBODY_SECONDS = 3.0
"""Seconds that it waits when no agent has said anything, or there is no endpoint."""
_ANOTHER = "Use another value, or --http-header=auto for one of your own."


async def create(api: Api, user: str, intercept: Intercept) -> Object:
    """The Intercept object when it is Ready, or has had its time. ``intercept.name`` is ``namespace/name``.

    Raises ``Conflict`` when somebody, or one's own living session elsewhere, has it already; what the agents refuse it
    with; ``NotThere`` without its namespace.
    """
    namespace, name = split_name(intercept.name)
    obj = objects_of(intercept, {SESSION_LABEL: intercept.session})
    await _check_rivals(api, user, obj)
    new = True
    try:
        made = await api.create(INTERCEPTS, obj, manager=MANAGER_CLIENT)
    except Conflict:
        made, new = await _take_over(api, user, obj)
    except NotThere as error:
        if f'namespaces "{namespace}" not found' in error.message:
            raise NotThere(
                f"There is no namespace {namespace}.", "kubectl get namespaces lists them."
            ) from error
        raise
    try:
        return await _settled(api, made)
    except BaseException:
        if new:
            await api.delete(INTERCEPTS, name, namespace, uid=made["metadata"]["uid"])
        raise


async def _take_over(api: Api, user: str, obj: Object) -> tuple[Object, bool]:
    """One's own of the same name and content, left by a session that is no more, goes to the new session.

    One that says the value of which the new one has the digest (as they did before there were digests) makes place for
    the new one, so that nobody reads it any more. Whether the object is new.
    """
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    there = await api.get(INTERCEPTS, name, namespace)
    spec, wanted = there["spec"], obj["spec"]
    movable = ("session", "tunnelPort", "handler")
    as_is = (*movable, *(() if "port" in wanted else ("port",)))  # a port by its name is not known here
    moved = {**wanted, **{key: spec[key] for key in as_is if key in spec}}
    old, new = from_api(InterceptSpec, spec), from_api(InterceptSpec, moved)
    told = old != new and replace(old, headers=new.headers) == new and same_rules(old, new)
    if spec["user"] != user or not (old == new or told):
        whose = "You have" if spec["user"] == user else f"{spec['user']} has"
        raise Conflict(
            f"{whose} an intercept named {name} in {namespace} already.",
            "Choose another name with --name"
            + (f", or end that one: tpnet leave {name}" if spec["user"] == user else "."),
        )
    holder = spec.get("session", "")
    if holder not in {"", wanted["session"]} and (where := await _lives_elsewhere(api, holder)):
        raise Conflict(
            f"You have an intercept named {name} in {namespace} already: your session {holder} on {where} has it.",
            f"End it there, or from here: tpnet leave {name}; or choose another name with --name.",
        )
    patch = {
        "metadata": {"labels": obj["metadata"]["labels"]},
        "spec": {key: wanted[key] for key in movable if key in wanted},
    }
    if told:
        await api.delete(INTERCEPTS, name, namespace, uid=there["metadata"]["uid"])
        return await api.create(INTERCEPTS, obj, manager=MANAGER_CLIENT), True
    return await api.merge(INTERCEPTS, name, namespace, patch), False


async def _lives_elsewhere(api: Api, session: str) -> str:
    """The computer whose daemon renews that session of this user; empty when it is this one, or none does."""
    try:
        # Developers may not read sessions. A change of nothing shows its owner the session all the same.
        there = await api.merge(SESSIONS, session, SYSTEM_NAMESPACE, {})
    except NotThere:
        return ""
    lease = from_api(SessionSpec, there["spec"])
    if unix_time(lease.renew_time) + lease.lease_seconds < time.time():
        return ""
    computer = str(there["metadata"].get("annotations", {}).get(COMPUTER, "another computer"))
    return "" if computer == socket.gethostname() else computer


async def _settled(api: Api, made: Object) -> Object:
    """The object when it is Ready, or has had its time. Raises what the agents refuse it with."""
    meta = made["metadata"]
    generation, started = meta["generation"], time.monotonic()
    version, latest = meta["resourceVersion"], made
    while True:
        if refused := refusal(latest, generation):
            raise refused
        parts = (latest.get("status") or {}).get("nodes") or ()
        patience = READY_SECONDS if parts else NOBODY_SECONDS
        left = started + patience - time.monotonic()
        # An agent may have concluded before another's part, or its own, is there: from the parts the session learns to
        # which nodes it has to have a tunnel.
        told = sum(part.get("ready", 0) for part in parts)
        if left <= 0 or (_is_ready(latest, generation) and told >= status_of(latest).ready):
            return latest
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                latest = await _next(api, meta["namespace"], meta["name"], version) or latest
        version = latest["metadata"]["resourceVersion"]


async def _check_rivals(api: Api, user: str, obj: Object) -> None:
    """Raise ``Conflict`` when the same requests are taken already.

    The agents would refuse it too, but go by age, of which the API server keeps the second alone.
    """
    meta, spec = obj["metadata"], from_api(InterceptSpec, obj["spec"])
    try:
        items, _ = await api.list(INTERCEPTS, meta["namespace"])
    except TpnetError:
        return  # what is missing is said when it is made
    for item in items:
        name = item["metadata"]["name"]
        if name == meta["name"] or not _stands(item):
            continue
        try:
            other = from_api(InterceptSpec, item["spec"])
        except InvalidInput:
            continue  # another version's, which is none of ours to judge
        if (other.target, other.port) == (spec.target, spec.port) and takes_all(other, spec):
            full = f"{meta['namespace']}/{name}"
            own = f"It is your own: tpnet leave {full} ends it."
            said = older_takes(other.user, full, other, full=True)
            raise Conflict(said, own if other.user == user else _ANOTHER)


def _stands(item: Object) -> bool:
    """Whether the agents have taken it, and its session lives: another bars nobody."""
    said = {one["type"]: one for one in (item.get("status") or {}).get("conditions") or ()}
    return (
        "deletionTimestamp" not in item["metadata"]
        and said.get("Accepted", {}).get("status") == "True"
        and said.get("Ready", {}).get("reason") not in {"SessionGone", "NoSession"}
    )


async def _next(api: Api, namespace: str, name: str, version: str) -> Object | None:
    """The object at its next change."""
    events = api.watch(
        INTERCEPTS, version, namespace, fields=field_is("metadata.name", name), seconds=int(READY_SECONDS)
    )
    async with contextlib.aclosing(events):
        async for kind, item in events:
            if kind == "DELETED":
                raise NotThere(f"The intercept {name} was removed while it was being made.")
            if kind != "BOOKMARK":
                return item
    return None


def refusal(obj: Object, generation: int) -> TpnetError | None:
    """Why the agents do not take an Intercept, if they say so of this ``generation``."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Accepted" and condition["status"] == "False":
            if condition.get("observedGeneration", generation) < generation:
                continue
            message = condition["message"]
            if condition["reason"] == "Conflict":
                return Conflict(message, _ANOTHER)
            return Refused(message)
    return None


def _is_ready(obj: Object, generation: int) -> bool:
    return any(
        condition["type"] == "Ready"
        and condition["status"] == "True"
        and condition.get("observedGeneration", generation) >= generation
        for condition in (obj.get("status") or {}).get("conditions") or ()
    )
