"""Which of many intercepts takes a request: the first, in a given order, whose rules hold.

The index is a tree. A node stands for a set of header rules that the request satisfies; the root for none.
Below it, per header name, a dictionary leads from exact values (another from their digests, where rules
have these alone), and one set of regexes from matching values, to the nodes that ask for one rule more.
Each node holds the path rules of the intercepts that ask for its header rules and no more: a dictionary of
equal paths, a sorted list of prefixes, one set of regexes.

So a request visits the nodes whose header rules it satisfies, all of them, and no others. What it pays
grows with its own size and with the number of sets of rules it satisfies, not with the number of
intercepts. ``tpnet.rules.ruleset`` makes indexes; it must never matter to them what the order means.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tpnet.model import PathKind
from tpnet.rules.precedence import header_key
from tpnet.rules.regex import RegexSet
from tpnet.rules.sealed import MARK_DIGITS, MAX_SEALED_BYTES, mark, proof
from tpnet.rules.view import NO_PATH, rule_values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tpnet.model import Intercept, PathRule
    from tpnet.rules.precedence import HeaderKey, RuleKey
    from tpnet.rules.view import HeadView

FEW_NAMES = 8
"""Up to so many header names are asked for one by one; of more, only those that the request has."""


class Index:
    """Intercepts in an order that says who comes first."""

    __slots__ = ("_nobody", "_ranked", "_root")

    def __init__(self, intercepts: Sequence[Intercept]) -> None:
        """Their rules have passed ``check_rules``. Raises ``InvalidInput`` if a regex cannot be compiled."""
        # An intercept is known by its rank, its place in that order: the best of several is the least number.
        self._nobody = len(intercepts)
        self._ranked = (*intercepts, None)
        entries = [_Entry(rank, header_key(i.headers, i.user), i.path) for rank, i in enumerate(intercepts)]
        self._root = _Node(entries, 0, self._nobody)

    def first(self, head: HeadView) -> Intercept | None:
        """The first intercept whose rules all hold of this request."""
        return self._ranked[self._root.find(head, self._nobody)]


class _Entry(NamedTuple):
    """An intercept on its way into the tree."""

    rank: int
    key: HeaderKey
    path: PathRule | None


class _Node:
    """The intercepts whose header rules begin with the ones on the way here."""

    __slots__ = ("fields", "listed", "paths")

    def __init__(self, entries: Sequence[_Entry], depth: int, nobody: int) -> None:
        """``entries`` in ascending order of rank; ``depth`` header rules are on the way here."""
        here = [entry for entry in entries if len(entry.key) == depth]
        self.paths = _Paths(here, nobody) if here else None
        by_name: defaultdict[bytes, list[_Entry]] = defaultdict(list)
        for entry in entries:
            if len(entry.key) > depth:
                by_name[entry.key[depth].name].append(entry)
        self.fields = {name: _Field(name, below, depth, nobody) for name, below in by_name.items()}
        self.listed = tuple(self.fields.values()) if len(self.fields) <= FEW_NAMES else None

    def find(self, head: HeadView, best: int) -> int:
        """The least rank at or below this node that takes the request, or ``best`` if none is less."""
        fields: Iterable[_Field] | None = self.listed
        if fields is None:
            fields = [self.fields[name] for name in self.fields.keys() & head.names()]
        for field in fields:
            if field.least < best:
                values = head.values(field.name)
                if values:
                    best = field.find(head, values, best)
        paths = self.paths
        if paths is not None and paths.least < best:
            best = min(best, paths.find(head.path))
        return best


class _Field:
    """What leads on from a node by one header name."""

    __slots__ = ("exact", "least", "name", "regex_nodes", "regexes", "sealed")

    def __init__(self, name: bytes, entries: Sequence[_Entry], depth: int, nobody: int) -> None:
        self.name = name
        self.least = entries[0].rank
        below: defaultdict[RuleKey, list[_Entry]] = defaultdict(list)
        for entry in entries:
            below[entry.key[depth]].append(entry)
        nodes = {key: _Node(group, depth + 1, nobody) for key, group in below.items()}
        self.exact = {key.value: node for key, node in nodes.items() if not (key.regex or key.owner)}
        self.sealed = _sealed(nodes)
        patterns = {key.value: node for key, node in nodes.items() if key.regex}
        self.regexes = RegexSet(list(patterns)) if patterns else None
        self.regex_nodes = list(patterns.values())

    def find(self, head: HeadView, values: Collection[bytes], best: int) -> int:
        """As ``_Node.find``, for the nodes that this header leads to; ``values`` are the request's."""
        if len(values) > 1:
            values = rule_values(self.name, values)
        exact = self.exact
        sealed = self.sealed
        regexes = self.regexes
        for value in values:
            node = exact.get(value)
            if node is not None:
                best = node.find(head, best)
            if sealed and len(value) <= MAX_SEALED_BYTES:
                for owner, of_owner in sealed.get(mark(value), {}).items():
                    node = of_owner.get(proof(owner, self.name, value))
                    if node is not None:
                        best = node.find(head, best)
            if regexes is not None:
                for index in regexes.match(value):
                    best = self.regex_nodes[index].find(head, best)
        return best


def _sealed(nodes: Mapping[RuleKey, _Node]) -> dict[str, dict[bytes, dict[str, _Node]]]:
    """Those that ask for a digest: by its mark, by whose it is, and by its proof.

    So whoever repeats the marks of others' values makes a request that has one pay for one digest more, not for each.
    """
    found: dict[str, dict[bytes, dict[str, _Node]]] = {}
    for key, node in nodes.items():
        if key.owner:
            digest = key.value.decode()
            of_mark = found.setdefault(digest[:MARK_DIGITS], {})
            of_mark.setdefault(key.owner[1:], {})[digest[MARK_DIGITS + 1 :]] = node
    return found


class _Paths:
    """The path rules of intercepts that ask for the very same headers."""

    __slots__ = (
        "_any",
        "_equal",
        "_outer",
        "_prefix_ranks",
        "_prefixes",
        "_regex_ranks",
        "_regexes",
        "least",
    )

    def __init__(self, entries: Sequence[_Entry], nobody: int) -> None:
        self.least = entries[0].rank
        self._any = nobody
        self._equal: dict[bytes, int] = {}
        prefixes: dict[bytes, int] = {}
        regexes: dict[bytes, int] = {}
        for rank, _, path in reversed(entries):  # so that of two alike the better one is written last
            if path is None:
                self._any = rank
            else:
                of_kind = {PathKind.EQUAL: self._equal, PathKind.PREFIX: prefixes, PathKind.REGEX: regexes}
                of_kind[path.kind][path.value.encode()] = rank
        self._prefixes = sorted(prefixes)
        self._prefix_ranks = [prefixes[prefix] for prefix in self._prefixes]
        self._outer = _outer(self._prefixes)
        self._regexes = RegexSet(list(regexes)) if regexes else None
        self._regex_ranks = list(regexes.values())

    def find(self, path: bytes) -> int:
        """The least rank of the path rules that hold."""
        best = min(self._any, self._equal.get(path, self._any))
        if path != NO_PATH:
            # Every prefix of the path sorts before it, and whatever sorts between the two begins with that
            # prefix. So they all are the last prefix not after the path, or among those that one itself
            # begins with.
            place = bisect_right(self._prefixes, path) - 1
            while place >= 0:
                if path.startswith(self._prefixes[place]):
                    best = min(best, self._prefix_ranks[place])
                place = self._outer[place]
            if self._regexes is not None:
                for hit in self._regexes.match(path):
                    best = min(best, self._regex_ranks[hit])
        return best


def _outer(prefixes: Sequence[bytes]) -> list[int]:
    """For each of these sorted texts the place of the longest other one that it begins with, or -1."""
    outer: list[int] = []
    for place, prefix in enumerate(prefixes):
        candidate = place - 1
        while candidate >= 0 and not prefix.startswith(prefixes[candidate]):
            candidate = outer[candidate]
        outer.append(candidate)
    return outer
