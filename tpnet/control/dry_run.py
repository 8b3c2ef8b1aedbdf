"""A dry run of one request, wherever intercepts are kept: a head that nobody sent, and who would take it.

The agent and the cluster's client call it. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tpnet.http.h1.head import RequestHead, read_request
from tpnet.model import Explanation, InvalidInput
from tpnet.rules import RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tpnet.model import Intercept


def request_head(method: str, path: str, headers: Sequence[tuple[str, str]]) -> RequestHead:
    """The head of a request that nobody sent. Raises ``InvalidInput`` when it could not be one."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if any("\r" in line or "\n" in line for line in lines):
        raise InvalidInput("A request's method, path and headers have no line breaks.")
    try:
        read = read_request("\r\n".join([*lines, "", ""]).encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("A request's method, path and headers are UTF-8.") from error
    if not isinstance(read, RequestHead):
        reason = getattr(read, "reason", "its first line is not one of HTTP/1")
        raise InvalidInput(f"No HTTP/1 request is like that: {reason}.", "Check method, path and headers.")
    return read


def explain_head(
    intercepts: Sequence[Intercept], head: RequestHead, why_not: Callable[[Intercept], str], nothing: str
) -> Explanation:
    """Who of ``intercepts``, all of one port, takes a request.

    ``why_not`` says why one's session cannot have it at this moment (empty: it can), ``nothing`` what to say when
    there are none.
    """
    here = RuleSet(intercepts)
    steps = tuple(here.explain(head))
    if head.reason:
        steps = tuple(replace(step, chosen=False, note="not asked") for step in steps)
        return Explanation(steps, reason=head.reason)
    chosen = here.decide(head)
    if chosen is None:
        return Explanation(steps, reason="" if steps else nothing)
    if reason := why_not(chosen):
        way = "to the app" if chosen.on_failure == "app" else "answered with 502"
        return Explanation(steps, chosen.session, chosen.handler, f"{reason}: for now {way}")
    return Explanation(steps, chosen.session, chosen.handler)
