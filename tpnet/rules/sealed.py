"""Exact values of headers that a rule does not say: a digest by which one is known when it comes. Pure.

The id of ``--http-header=auto`` is kept so: whoever reads an Intercept learns neither the id, nor anything that would
take its requests, for the digest is bound to the intercept's user. Its first digits are of the value alone, so that a
request's value leads to the few digests that it can be, however many there are; they prove nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tpnet.model import HeaderRule

MARK_DIGITS: Final = 8
"""Hex digits of a value's own SHA-256: what is shown of it, and where a digest begins."""

MAX_SEALED_BYTES: Final = 4096
"""No rule's value is longer, so that no longer one of a request is hashed."""

sha256()  # the library has what it needs from now on: a worker that is shut off opens no file for it

is_digest = re.compile(r"[0-9a-f]{8}-[0-9a-f]{64}").fullmatch
"""Whether a text can be the digest of a rule."""


def mark(value: bytes) -> str:
    """Eight digits by which people tell values apart, and cannot read them."""
    return sha256(value).hexdigest()[:MARK_DIGITS]


def proof(owner: bytes, name: bytes, value: bytes) -> str:
    """What only who knows a value can give: of ``owner``'s rule on the header ``name`` (in lower case).

    None of the three can hold a zero byte, so that no two of these are hashed alike.
    """
    return sha256(b"tpnet\0%b\0%b\0%b" % (owner, name, value)).hexdigest()


def digest_of(owner: bytes, name: bytes, value: bytes) -> str:
    """The mark of a value, and the proof."""
    return f"{mark(value)}-{proof(owner, name, value)}"


def sealed(rule: HeaderRule, user: str) -> HeaderRule:
    """An exact rule of this user with its value's digest in the place of the value."""
    digest = digest_of(user.encode(), rule.name.lower().encode(), rule.value.encode())
    return replace(rule, value="", digest=digest)


def opens(value: str, rule: HeaderRule, user: str) -> bool:
    """Whether ``value`` is what this user's rule asks for and does not say."""
    return bool(rule.digest) and sealed(replace(rule, value=value), user).digest == rule.digest


def mark_of(rule: HeaderRule) -> str:
    """The eight digits of a rule's value, whether the rule says it or not."""
    return rule.digest[:MARK_DIGITS] or mark(rule.value.encode("utf-8", "surrogatepass"))
