"""Decides which side takes a target's requests, and counts what becomes of them.

One ``Router`` is the ``tpnet.http.conversation.Observer`` of all conversations of its target. Must never keep anything
of a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.http.verdict import OF_KUBELET, TO_APP, Outcome, Verdict
from tpnet.model import OnFailure
from tpnet.proxy.sessions import SessionRoute
from tpnet.rules import ProbeSet, RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Sequence

    from tpnet.http.conversation import Side
    from tpnet.http.h1.head import RequestHead
    from tpnet.model import Intercept
    from tpnet.proxy.context import Context
    from tpnet.proxy.counters import TargetCount
    from tpnet.rules import Probe


class Router:
    """The rules of one target, and its counts."""

    __slots__ = ("_context", "_matched", "_probes", "_rules", "_verdicts", "count")

    def __init__(self, context: Context, count: TargetCount) -> None:
        self._context = context
        self._rules: RuleSet | None = None
        self._probes: ProbeSet | None = None
        self._matched: dict[str, frozenset[bytes]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self.count = count

    def set_rules(self, intercepts: Sequence[Intercept], probes: Sequence[Probe] = ()) -> None:
        """Decide by these intercepts from the next request on; but ``probes`` are the app's."""
        self._rules = RuleSet(intercepts) if intercepts else None
        self._probes = ProbeSet(probes) if probes else None
        self._matched = {
            one.name: frozenset(rule.name.lower().encode() for rule in one.headers) for one in intercepts
        }
        self._verdicts = {
            one.name: Verdict(
                Outcome.FORWARD,
                SessionRoute(one.session, one.tunnel_port, one.name, one.connect_timeout),
                intercept=one.name,
                on_failure_app=one.on_failure is OnFailure.APP,
            )
            for one in intercepts
        }

    @property
    def intercepts(self) -> Collection[str]:
        """The names of the intercepts that it decides by."""
        return self._verdicts.keys()

    @property
    def guarding(self) -> bool:
        """Whether there is any."""
        return self._rules is not None

    def decider(self, source: str) -> Callable[[RequestHead], Verdict]:
        """What decides the requests of a client of this address."""
        return self._decide_of_node if source in self._context.node else self.decide

    def _decide_of_node(self, head: RequestHead) -> Verdict:
        return self.decide(head, from_node=True)

    @property
    def routes(self) -> Container[Side]:
        """The ways to sessions that requests may take."""
        return {verdict.side for verdict in self._verdicts.values()}

    def decide(self, head: RequestHead, *, from_node: bool = False) -> Verdict:
        """Who takes this request."""
        if self._rules is None:
            return TO_APP
        intercept = self._rules.decide(head)
        if intercept is None:
            return TO_APP
        if (probes := self._probes) is not None and head.method == b"GET":
            matched = self._matched[intercept.name]
            if probes.has(head.target, head, matched, from_node=from_node):
                return OF_KUBELET
        verdict = self._verdicts[intercept.name]
        session = self._context.sessions.get(intercept.session)
        if session is None or not session.up or session.silent:
            reason = "session down"
        elif intercept.tunnel_port not in session.ports:
            reason = "handler not listening"
        else:
            return verdict
        if verdict.on_failure_app:
            self._context.book.intercepts[intercept.name].reasons[reason] += 1
            return TO_APP
        return verdict._replace(outcome=Outcome.FAIL, reason=reason)

    def on_verdict(self, verdict: Verdict) -> None:
        """Count a verdict."""
        count = self.count
        if verdict is TO_APP:
            count.unmatched += 1
            return
        outcome, _, reason, intercept, _ = verdict
        if intercept is None:
            count.requests += 1
            if outcome is Outcome.APP:
                count.app_requests += 1
            count.verdicts[outcome.value] += 1
            if reason:
                count.reasons[reason] += 1
            return
        if outcome is Outcome.FORWARD:
            count.requests += 1
            self._context.book.intercepts[str(intercept)].hit()
        elif outcome is Outcome.FAIL:
            count.requests += 1
            self._context.book.intercepts[str(intercept)].reasons[reason] += 1
            outcome = Outcome.FORWARD  # as far as the rules go
        count.verdicts[outcome.value] += 1

    def on_fallback(self, verdict: Verdict, reason: str) -> None:
        """The app has a matched request after all."""
        self.count.app_requests += 1
        self.on_failed(verdict, reason)

    def on_failed(self, verdict: Verdict, reason: str) -> None:
        """A matched request got no response of its session."""
        intercept = self._context.book.intercepts[str(verdict.intercept)]
        intercept.reasons[reason] += 1
        intercept.hits -= 1
