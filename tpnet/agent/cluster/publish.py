"""What this agent tells the cluster: its key and address, its part of each intercept, conditions, and who is gone.

``tpnet.agent.cluster.controller`` calls it after each step. It must never write what is there already, and never more
than one agent's share: of what concerns all, the agent that the ring names writes, others only should it not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tpnet
from tpnet.agent.cluster.decide import LeaseState, intercept_at
from tpnet.agent.cluster.facts import seconds_of
from tpnet.agent.cluster.report import conclusion, differs, part_of
from tpnet.agent.cluster.writer import Writer
from tpnet.agent.sessions import endpoint_text
from tpnet.control.kubernetes.convert import to_api
from tpnet.control.kubernetes.names import MANAGER_CONDITIONS, node_manager
from tpnet.control.kubernetes.resources import INTERCEPTS, NODE_AGENTS, NODES, SESSIONS, SYSTEM_NAMESPACE
from tpnet.model import NodeAgentSpec, NodeReport
from tpnet.tunnel import HEARTBEAT_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tpnet.agent.answers import Parts
    from tpnet.agent.cluster.decide import Case, Outcome
    from tpnet.agent.cluster.facts import Key, Wish
    from tpnet.agent.cluster.world import World
    from tpnet.control.kubernetes.api import Api
    from tpnet.control.local.store import TargetKey

_log = logging.getLogger(__name__)

HITS_EVERY = 30.0
"""Seconds between two writes of nothing but a higher count."""
FIRST_HITS, FIRST_HITS_EVERY = 20, 2.0
"""So many hits are told of sooner: somebody has just made the intercept, and looks whether it works."""
TURN = 10.0
"""Seconds that each agent waits for the one before it, by its rank on the ring."""
ORPHAN_SECONDS = 30.0
"""Seconds until an intercept whose session does not exist is removed: it may be about to."""
_ENDING = "The agent on this node is ending."


class Publisher:
    """``writer`` does the writing, in the background."""

    def __init__(self, api: Api, node: str, addresses: Sequence[str], parts: Parts, world: World) -> None:
        self._api = api
        self._node = node
        self._addresses = tuple(addresses)
        self._parts = parts
        self._world = world
        self._differs_since: dict[Key, float] = {}
        self._before: dict[str, NodeReport | None] = {}  # what was counted in an earlier life, by uid
        self._node_uid = ""
        self._key = ""
        self.writer = Writer()

    def publish(self, outcome: Outcome) -> None:
        """See that everything is said that is not said yet."""
        self._publish_agent()
        for case in outcome.cases.values():
            part = self._part(case)
            self._publish_part(case, part)
            self._publish_conditions(case, part)
            self._drop_the_dead(case, outcome)
        self._differs_since = {key: at for key, at in self._differs_since.items() if key in outcome.cases}
        uids = {case.wish.uid for case in outcome.cases.values()}
        self._before = {uid: part for uid, part in self._before.items() if uid in uids}
        self.writer.forget(
            lambda key: key == NODE_AGENTS or (isinstance(key, tuple) and key[1] in outcome.cases)
        )

    def heard_somewhere(self, outcome: Outcome) -> Callable[[str], bool]:
        """Whether any agent hears a session's heartbeat: this one, or one whose part says so."""
        heard = {
            case.wish.spec.session
            for case in outcome.cases.values()
            for part in case.wish.report.nodes
            if part.session_up and part.node != self._node and part.node in self._world.agents
        }
        return lambda name: name in heard or self._parts.sessions.up(name)

    async def say_goodbye(self, outcome: Outcome) -> None:
        """This node's parts say from now on that nothing is redirected here. Never raises."""
        writes = []
        for case in outcome.cases.values():
            part = self._part(case)
            if part is not None:
                ends = tuple(replace(end, ready=False, reason=_ENDING) for end in part.endpoints)
                last = replace(part, ready=0, session_up=False, endpoints=ends, message=_ENDING)
                writes.append(self._apply_part(case.wish, last))
        await asyncio.gather(*writes, return_exceptions=True)

    async def withdraw(self) -> None:
        """The node has no agent any more, unless the next one is there already. Raises ``TpnetError``."""
        there = await self._api.get(NODE_AGENTS, self._node)
        if (there.get("spec") or {}).get("publicKey", "") in {"", self._key}:
            await self._api.delete(NODE_AGENTS, self._node)

    # Key and address.

    def _publish_agent(self) -> None:
        identity = self._parts.sessions.identity()
        if identity is None:
            return
        key, address, port, mtu = identity
        self._key = key
        spec = to_api(
            NodeAgentSpec(
                public_key=key,
                tunnel_address=address,
                endpoints=tuple(endpoint_text(host, port) for host in self._addresses),
                heartbeat_port=HEARTBEAT_PORT,
                mtu=mtu,
                version=tpnet.__version__,
                redirect=self._parts.redirect[0],
            )
        )
        if self._world.agents.get(self._node) != spec:
            self.writer.put(NODE_AGENTS, spec, lambda: self._apply_agent(spec))

    async def _apply_agent(self, spec: dict[str, Any]) -> None:
        if not self._node_uid:
            node = await self._api.get(NODES, self._node)
            self._node_uid = node["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._node_uid}
        obj = {"metadata": {"name": self._node, "ownerReferences": [owner]}, "spec": spec}
        await self._api.apply(NODE_AGENTS, obj, node_manager(self._node))

    # This node's part.

    def _part(self, case: Case) -> NodeReport | None:
        wish, hits, last_hit = case.wish, 0, 0.0
        missed: Counter[str] = Counter()
        if case.spots:
            count = self._parts.ledger.intercept(intercept_at(wish, case.spots[0]))
            before = self._before.setdefault(wish.uid, self._seen(wish))
            hits = count.get("hits", 0) + (before.hits if before is not None else 0)
            missed.update(count.get("reasons", {}))
            missed.update({one.reason: one.count for one in before.missed} if before is not None else {})
            last_hit = count.get("last_hit", 0.0) or (
                seconds_of(before.last_hit) if before is not None else 0.0
            )
        return part_of(
            self._node,
            case,
            self._trouble,
            session_up=self._parts.sessions.up(wish.spec.session),
            hits=hits,
            last_hit=last_hit,
            missed=missed,
        )

    def _seen(self, wish: Wish) -> NodeReport | None:
        """This node's part as it stands."""
        return next((one for one in wish.report.nodes if one.node == self._node), None)

    def _trouble(self, key: TargetKey) -> str:
        """Why a target is not redirected at this moment."""
        door = self._parts.targets.door(key)
        if door is not None:
            return "" if door.ready else door.reason
        failure = self._parts.targets.failures.get(key)
        return failure.message if failure is not None else "It is not redirected yet."

    def _publish_part(self, case: Case, part: NodeReport | None) -> None:
        wish = case.wish
        seen = self._seen(wish)
        if part == seen or (part is None and not case.known):
            return
        where = "part", wish.key, wish.uid
        if part is not None and seen is not None:
            counted = replace(part, hits=seen.hits, last_hit=seen.last_hit, missed=seen.missed)
            every = FIRST_HITS_EVERY if seen.hits < FIRST_HITS else HITS_EVERY
            if counted == seen and time.monotonic() - self.writer.written_at(where) < every:
                return
            if counted == seen:
                self.writer.put(where, part, lambda: self._apply_part(wish, part))
                return
        uncounted = part and replace(part, hits=0, last_hit="", missed=())
        self.writer.put(where, uncounted, lambda: self._apply_part(wish, part))

    async def _apply_part(self, wish: Wish, part: NodeReport | None) -> None:
        nodes = [] if part is None else [to_api(part)]
        await self._apply_status(wish, {"nodes": nodes} if nodes else {}, node_manager(self._node))

    async def _apply_status(self, wish: Wish, status: dict[str, Any], manager: str) -> None:
        meta = {"namespace": wish.namespace, "name": wish.name, "uid": wish.uid}
        await self._api.apply(INTERCEPTS, {"metadata": meta, "status": status}, manager, subresource="status")

    # What concerns all.

    def _rank(self, case: Case) -> int | None:
        """The place in the line of those who may write for all; ``None``: not in it."""
        rank = self._world.owned.get(case.wish.key)
        if rank is None and case.spots:
            rank = 2
        return rank

    def _publish_conditions(self, case: Case, part: NodeReport | None) -> None:
        wish, rank = case.wish, self._rank(case)
        if rank is None:
            return
        others = [one for one in wish.report.nodes if one.node != self._node]
        parts = [*others, part] if part is not None else others
        concluded = conclusion(case, parts, frozenset(self._world.agents), time.time())
        if not case.known or not differs(concluded, wish.report):
            self._differs_since.pop(wish.key, None)
            return
        since = self._differs_since.setdefault(wish.key, time.monotonic())
        if rank and time.monotonic() - since > TURN / 2:
            self._world.refresh(wish)  # so that two agents do not differ because one has looked later
        if time.monotonic() - since < rank * TURN:
            return
        status = to_api(concluded)
        status["observedGeneration"] = wish.generation
        self.writer.put(
            ("conditions", wish.key, wish.uid),
            replace(
                concluded,
                conditions=tuple(replace(one, last_transition_time="") for one in concluded.conditions),
            ),
            lambda: self._apply_status(wish, status, MANAGER_CONDITIONS),
        )

    def _drop_the_dead(self, case: Case, outcome: Outcome) -> None:
        """Remove an intercept whose session has ended, and with the last one the session."""
        wish, rank = case.wish, self._rank(case)
        name = wish.spec.session
        if rank is None or case.session not in {LeaseState.OVER, LeaseState.GONE}:
            return
        if case.session is LeaseState.OVER and self.heard_somewhere(outcome)(name):
            return
        wait = rank * TURN + (ORPHAN_SECONDS if case.session is LeaseState.GONE else 0.0)
        if self._world.leases.ended_for(name) < wait:
            return
        lease = case.lease
        self.writer.put(("drop", wish.key, wish.uid), name, lambda: self._drop(wish))
        if lease is not None and case.session is LeaseState.OVER:
            self.writer.put(
                ("end", wish.key, lease.uid),
                name,
                lambda: self._api.delete(SESSIONS, name, SYSTEM_NAMESPACE, uid=lease.uid),
            )

    async def _drop(self, wish: Wish) -> None:
        if await self._api.delete(INTERCEPTS, wish.name, wish.namespace, uid=wish.uid):
            _log.info("intercept %s is removed: its session %s has ended", wish.full_name, wish.spec.session)
