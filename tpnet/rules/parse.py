"""Flags to rules, and the check of rules that come from elsewhere.

The command line calls ``parse_rules``; whoever takes intercepts over a socket calls ``check_rules`` on
them, since a client that skipped the first must not get further than one that did not. Everything that
cannot be a rule, or that no request could ever satisfy, raises ``InvalidInput``; nothing else is ever
raised, whatever the text.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.model import HeaderRule, InvalidInput, PathKind, PathRule, printable
from tpnet.rules.describe import AUTO_HEADER, AUTO_ID
from tpnet.rules.precedence import header_key
from tpnet.rules.regex import never_begins_with, regex_fault
from tpnet.rules.sealed import is_digest, sealed

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TEXT_BYTES = 4096
"""The longest value or path, in bytes of UTF-8; a whole head may have 64 KiB."""

MAX_HEADER_RULES = 32
"""Header rules of one intercept; the index descends one level for each."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_SPLIT = re.compile("[=:]")  # neither may occur in a name
_CONTROL = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f]")  # all but HTAB; RFC 9110 section 5.5
_SHOWN = 60  # characters of a flag that a refusal repeats


@dataclass(frozen=True, slots=True)
class Rules:
    """What the flags of one intercept mean. ``auto``: the one header rule is the developer's own id."""

    headers: tuple[HeaderRule, ...]
    path: PathRule | None = None
    auto: bool = False

    def as_kept(self, user: str) -> tuple[HeaderRule, ...]:
        """The header rules as an intercept of this user holds them: of an id that tpnet made the digest alone."""
        return tuple(sealed(rule, user) for rule in self.headers) if self.auto else self.headers


def new_auto_id() -> str:
    """An id for ``--http-header=auto``: 128 random bits in lower-case hex.

    Made once per developer and kept, so that one browser setting serves all of one's intercepts.
    """
    return secrets.token_hex(16)


def parse_rules(
    headers: Sequence[str],
    path_equal: Sequence[str],
    path_prefix: Sequence[str],
    path_regex: Sequence[str],
    auto_id: str,
) -> Rules:
    """The rules that the flags ask for; each sequence holds the texts of one flag as the user wrote them.

    ``auto_id`` comes from ``new_auto_id``; it is looked at only when the flags mean ``auto``.
    Raises ``InvalidInput``.
    """
    path = _parse_path(path_equal, path_prefix, path_regex)
    if not headers or list(headers) == ["auto"]:
        if not AUTO_ID.fullmatch(auto_id):
            raise InvalidInput(
                f"The stored id for --http-header=auto is damaged: '{printable(auto_id, _SHOWN)}'.",
                "It should be 32 hex digits; remove it and a new one is made.",
            )
        return Rules((HeaderRule(AUTO_HEADER, auto_id),), path, auto=True)
    if list(headers) == ["all"]:
        return Rules((), path)
    if "all" in headers:
        raise InvalidInput(
            "--http-header=all takes requests whatever their headers, "
            "so no other --http-header can stand beside it.",
            "Drop all to take only the requests that the other flags name.",
        )
    if "auto" in headers:
        raise InvalidInput(
            "--http-header=auto stands alone: its id already picks out your requests, "
            "and with another rule they would need both headers.",
            "Drop auto to use the other flags, or drop these.",
        )
    rules = tuple(_parse_header(text) for text in headers)
    _check_together(rules)
    return Rules(rules, path)


def check_rules(headers: Sequence[HeaderRule], path: PathRule | None) -> None:
    """Raise ``InvalidInput`` unless flags could have made these rules. It says no header's value, nor a part of one."""
    for rule in headers:
        _check_header(rule, f"header rule {printable(rule.name, _SHOWN)}", quoting=False)
    _check_together(headers)
    if path is not None:
        _check_path(path, f"path rule {printable(path.value, _SHOWN)}")


def _parse_header(text: str) -> HeaderRule:
    """One ``KEY=VALUE``, ``KEY: VALUE`` or ``KEY=~REGEX``."""
    where = f"--http-header={printable(text, _SHOWN)}"
    split = _SPLIT.search(text)
    if split is None:
        raise InvalidInput(
            f"{where}: there is no value.", "Write KEY=VALUE, 'KEY: VALUE' or KEY=~REGEX; or auto, or all."
        )
    name, value = text[: split.start()], text[split.end() :]
    if split.group() == ":":
        # Written like a field line, so the blanks around the value are none of its own (RFC 9112 section
        # 5.1).
        rule = HeaderRule(name, value.strip(" \t"))
    elif value.startswith("~"):
        rule = HeaderRule(name, value[1:], regex=True)
    else:
        rule = HeaderRule(name, value)
    _check_header(rule, where)
    return rule


def _parse_path(equal: Sequence[str], prefix: Sequence[str], regex: Sequence[str]) -> PathRule | None:
    given = [(PathKind.EQUAL, text) for text in equal]
    given += [(PathKind.PREFIX, text) for text in prefix]
    given += [(PathKind.REGEX, text) for text in regex]
    if not given:
        return None
    if len({kind for kind, _ in given}) > 1:
        raise InvalidInput(
            "Only one of --http-path-equal, --http-path-prefix, --http-path-regex can be given.",
            "Make an intercept for each, or one regex that takes both.",
        )
    kind, text = given[0]
    if len(given) > 1:
        raise InvalidInput(
            f"--http-path-{kind} can be given only once.",
            "Make an intercept for each path, or one --http-path-regex that takes all of them.",
        )
    rule = PathRule(kind, text)
    _check_path(rule, f"--http-path-{kind}={printable(text, _SHOWN)}")
    return rule


def _check_header(rule: HeaderRule, where: str, *, quoting: bool = True) -> None:
    if not rule.name:
        raise InvalidInput(
            f"{where}: the header's name is empty.", "Write KEY=VALUE, 'KEY: VALUE' or KEY=~REGEX."
        )
    if not _TOKEN.fullmatch(rule.name):
        raise InvalidInput(
            f"{where}: '{printable(rule.name, _SHOWN)}' cannot be the name of a header.",
            "A name has only letters, digits and !#$%&'*+-.^_`|~",
        )
    _check_text(rule.name, where, "name")
    if rule.digest and not (is_digest(rule.digest) and not rule.value and not rule.regex):
        raise InvalidInput(
            f"{where}: a digest stands in the place of an exact value, and is 8 hex digits, a dash and 64 more.",
            "Write the value itself, or make the rule with tpnet intercept --http-header=auto.",
        )
    _check_text(rule.value, where, "value")
    if rule.value != rule.value.strip(" \t"):
        raise InvalidInput(
            f"{where}: the value begins or ends with a blank, which is never part of a header's value.",
            "Drop the blank; in a regex that means it, write [ ].",
        )
    if rule.regex:
        _check_regex(rule.value, where, quoting=quoting)


def _check_together(rules: Sequence[HeaderRule]) -> None:
    """What one header rule cannot be told to be wrong by itself."""
    if len(rules) > MAX_HEADER_RULES:
        raise InvalidInput(
            f"{len(rules)} header rules are too many: an intercept can have {MAX_HEADER_RULES}.",
            "One header of your own, or --http-header=auto, is enough to pick out your requests.",
        )
    twice = [key for key, count in Counter(header_key((rule,)) for rule in rules).items() if count > 1]
    for rule in rules:
        if header_key((rule,)) in twice:
            raise InvalidInput(
                f"The header rule on {printable(rule.name, _SHOWN)} is given twice.", "Drop one of them."
            )
    hosts = [rule.value for rule in rules if rule.name.lower() == "host" and not rule.regex]
    if len(hosts) > 1:
        raise InvalidInput(
            f"Host would have to be {len(hosts)} things at once, but a request has one Host.",
            "Make an intercept for each, or write one Host=~REGEX that takes both.",
        )


def _check_path(rule: PathRule, where: str) -> None:
    _check_text(rule.value, where, "path")
    if rule.kind is PathKind.REGEX:
        _check_regex(rule.value, where)
        if never_begins_with(rule.value, b"/"):
            raise InvalidInput(
                f"{where}: this matches no path: a path begins with a slash, and the whole of it must match.",
                "Write /api(/.*)? for /api and what is below it, .*api.* for what holds api somewhere.",
            )
        return
    if rule.kind is PathKind.EQUAL and rule.value == "*":
        return  # OPTIONS *
    if not rule.value.startswith("/"):
        raise InvalidInput(
            f"{where}: a path begins with a slash.", "Write it as in the request, such as /api."
        )
    for mark, why in (
        ("?", "the query is no part of the path that is compared"),
        ("#", "clients never send what follows a #"),
        (" ", "a path cannot hold a blank"),
        ("\t", "a path cannot hold a blank"),
    ):
        if mark in rule.value:
            raise InvalidInput(
                f"{where}: {why}, so this matches no request.",
                "Write the blank as %20, as clients send it."
                if mark.isspace()
                else f"Leave {printable(mark)} and what follows it out.",
            )


def _check_regex(pattern: str, where: str, *, quoting: bool = True) -> None:
    fault = regex_fault(pattern, quoting=quoting)
    if fault is not None:
        why, hint = fault
        raise InvalidInput(f"{where}: {printable(why)}", hint)


def _check_text(text: str, where: str, what: str) -> None:
    """Text that bytes of a request can equal, and that a terminal may show."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{where}: the {what} is not UTF-8 text.", "Escape it in a regex, such as \\xff."
        ) from None
    if length > MAX_TEXT_BYTES:
        raise InvalidInput(f"{where}: the {what} is longer than {MAX_TEXT_BYTES} bytes.", "")
    control = _CONTROL.search(text)
    if control:
        raise InvalidInput(
            f"{where}: the {what} holds the control character U+{ord(control.group()):04X}.",
            "No header or path may carry it.",
        )
