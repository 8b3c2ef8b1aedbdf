"""What a CustomResourceDefinition checks beyond types and limits: the same as the flags of ``tpnet intercept``.

``schema`` puts these into the definitions; the API server evaluates them (CEL) on every write. They are the
counterpart of ``tpnet.rules.check_rules`` and must never be looser where CEL can say it; agents call that one
again. Left to it alone: the length in bytes, and that a regex can match a path at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpnet.model import (
    HeaderRule,
    InterceptSpec,
    NodeAgentSpec,
    PathRule,
    SessionSpec,
    TargetRef,
)


@dataclass(frozen=True, slots=True)
class Check:
    """``rule`` is CEL; ``self`` is the object or field. ``message`` is a sentence: what is wrong, what to write.

    ``field`` places it at one field of the class (in snake case); empty: at the class as a whole.
    """

    rule: str
    message: str
    field: str = ""


def _fixed(field: str, what: str) -> Check:
    """A required field that never changes."""
    return Check("self == oldSelf", f"{what} cannot be changed. Delete it and make another one.", field)


def _fixed_optional(field: str, what: str) -> Check:
    """The same for a field that may be left out, and may then not be added later."""
    return Check(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{what} cannot be changed. Delete it and make another one.",
    )


_CONTROL = r"[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x{9f}]"  # all but HTAB; RFC 9110 section 5.5
_NO_REGEX = "the syntax is RE2's, which knows neither look-around nor back-references"

CHECKS: dict[type, tuple[Check, ...]] = {
    HeaderRule: (
        Check(
            'self.matches("^[!#$%&\'*+.^_`|~0-9A-Za-z-]+$")',  # RFC 9110 section 5.6.2
            "The name of a header has at least one character, and only letters, digits and !#$%&'*+-.^_`|~",
            "name",
        ),
        Check(
            f"!self.matches('{_CONTROL}')", "The value of a header cannot hold a control character.", "value"
        ),
        Check(
            r"!self.matches('^[ \\t]|[ \\t]$')",
            "A blank at the beginning or end is never part of a header's value. Drop it; in a regex that means it, "
            "write [ ].",
            "value",
        ),
        Check(
            "has(self.value) != has(self.digest)",
            "A header rule has a value, or in its place a digest.",
        ),
        Check(
            "!self.regex || !has(self.value) || size(self.value) <= 1024",
            "A regex cannot be longer than 1024 characters.",
        ),
        Check("!self.regex || has(self.value)", "A regex is said: it has no digest."),
        Check(
            "!self.regex || !has(self.value) || !''.matches(self.value)",
            "A regex must not match the empty string: ask for at least one character, such as .+ instead of .* "
            f"({_NO_REGEX}).",
        ),
    ),
    PathRule: (
        Check(
            "self.kind == 'regex' || self.value.startsWith('/') || (self.kind == 'equal' && self.value == '*')",
            "A path begins with a slash. Write it as in the request, such as /api.",
        ),
        Check(
            r"self.kind == 'regex' || !self.value.matches('[?# \\t]')",
            "The path that is compared has no query, no # and no blank, so this matches no request. Leave ? and # and "
            "what follows out; write a blank as %20.",
        ),
        Check(f"!self.matches('{_CONTROL}')", "A path cannot hold a control character.", "value"),
        Check(
            "self.kind != 'regex' || size(self.value) <= 1024",
            "A regex cannot be longer than 1024 characters.",
        ),
        Check(
            "self.kind != 'regex' || !''.matches(self.value)",
            "A regex must not match the empty string: ask for at least one character, such as .+ instead of .* "
            f"({_NO_REGEX}).",
        ),
    ),
    TargetRef: (_fixed("kind", "The target of an intercept"), _fixed("name", "The target of an intercept")),
    InterceptSpec: (
        _fixed("user", "The user of an intercept"),
        Check(
            # Of optionals (o.?value) the API server cannot tell beforehand what comparing them costs at most.
            "self.all(h, self.exists_one(o, o.regex == h.regex && o.name.lowerAscii() == h.name.lowerAscii() && "
            "((has(o.value) && has(h.value) && o.value == h.value) || "
            "(has(o.digest) && has(h.digest) && o.digest == h.digest))))",
            "A header rule is given twice. Drop one of them.",
            "headers",
        ),
        Check(
            "self.filter(h, !h.regex && h.name.lowerAscii() == 'host').size() <= 1",
            "A request has one Host, so it cannot be two. Make an intercept for each, or write one regex that takes "
            "both.",
            "headers",
        ),
        _fixed("headers", "The header rules of an intercept"),
        Check(
            "type(self) == int ? (self > 0 && self < 65536) : "
            "(self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self) <= 63)",
            "A port is a number from 1 to 65535, or a name of lower-case letters, digits and dashes.",
            "port",
        ),
        _fixed_optional("port", "The port of an intercept"),
        _fixed_optional("path", "The path rule of an intercept"),
        _fixed("connect_timeout_seconds", "How long an intercept's requests wait"),
        _fixed("on_failure", "What an intercept does on failure"),
        _fixed("shared", "Whether an intercept is shared"),
    ),
    SessionSpec: (
        _fixed("user", "The user of a session"),
        Check(
            "self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')",
            "The public key is not a WireGuard key: 32 bytes in base64 are wanted.",
            "public_key",
        ),
        _fixed("public_key", "The key of a session"),
    ),
    NodeAgentSpec: (
        Check(
            "self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')",
            "The public key is not a WireGuard key: 32 bytes in base64 are wanted.",
            "public_key",
        ),
    ),
}
"""The checks of each class. What is not here has none."""
