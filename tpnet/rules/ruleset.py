"""The compiled intercepts of one port. The worker asks ``decide`` once per request, so it must stay quick.

Who takes a request is settled in two steps. The *oldest* personal intercept that matches (else the oldest global one)
settles whose it is, so that nobody takes another user's requests by adding rules. Of that user's own that match, the
most specific takes it. A shared intercept yields to a narrower one of another user's. ``precedence`` has both orders.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tpnet.rules.explain import explain
from tpnet.rules.implies import is_narrower
from tpnet.rules.index import Index
from tpnet.rules.precedence import age, precedence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpnet.model import ExplainStep, Intercept
    from tpnet.rules.view import HeadView


class RuleSet:
    """The intercepts of one port, ready to decide."""

    __slots__ = ("_by_age", "_narrower", "_own", "intercepts")

    intercepts: tuple[Intercept, ...]
    """The oldest personal one first, the youngest global one last."""

    def __init__(self, intercepts: Sequence[Intercept]) -> None:
        """Their rules have passed ``check_rules``. Raises ``InvalidInput`` if a regex cannot be compiled."""
        self.intercepts = tuple(sorted(intercepts, key=age))
        of_user: defaultdict[str, list[Intercept]] = defaultdict(list)
        for intercept in self.intercepts:
            of_user[intercept.user].append(intercept)
        self._own = {
            user: Index(sorted(own, key=precedence)) for user, own in of_user.items() if len(own) > 1
        }
        # Where all are one user's, only their own order counts.
        self._by_age = (
            next(iter(self._own.values())) if len(of_user) == 1 < len(intercepts) else Index(self.intercepts)
        )
        if len(of_user) == 1:
            self._own.clear()
        self._narrower = {
            wide.name: Index(narrow)
            for wide in self.intercepts
            if wide.shared and (narrow := [one for one in self.intercepts if is_narrower(one, wide)])
        }

    def decide(self, head: HeadView) -> Intercept | None:
        """The intercept that takes this request, or None: it goes to the app."""
        taker = self._by_age.first(head)
        if taker is None:
            return None
        while taker.shared and (narrower := self._narrower.get(taker.name)) is not None:
            narrow = narrower.first(head)
            if narrow is None:
                break
            taker = narrow  # which takes strictly less, so that this ends
        own = self._own.get(taker.user)
        return taker if own is None else own.first(head)

    def explain(self, head: HeadView) -> list[ExplainStep]:
        """Every intercept's answer, the taker's first: a plain scan that comes to the same end."""
        return explain(self.intercepts, head)
