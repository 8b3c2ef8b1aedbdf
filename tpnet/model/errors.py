"""Errors a user can act on. Every layer raises these; the command line turns them into a line and an exit code."""

from __future__ import annotations

from typing import Any, ClassVar


class TpnetError(Exception):
    """What failed, where, and what to try.

    ``message`` is one or more whole sentences; ``hint`` says the way out, and may be empty.
    ``exit_code`` is what ``tpnet`` exits with (see docs/reference/exit-codes.md).
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, Any]:
        """The error as it crosses a control socket."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}

    @staticmethod
    def from_json(data: dict[str, Any]) -> TpnetError:
        """The error that ``to_json`` described; an unknown kind becomes a plain ``TpnetError``."""
        kinds: list[type[TpnetError]] = TpnetError.__subclasses__()
        cls = next((cls for cls in kinds if cls.kind == data.get("kind")), TpnetError)
        return cls(str(data.get("message", "")), str(data.get("hint", "")))


class InvalidInput(TpnetError):
    """A flag, name or object is malformed."""

    exit_code = 2
    kind = "invalid"


class Refused(TpnetError):
    """It is understood, and not allowed: a missing right, a target that must not be touched."""

    exit_code = 3
    kind = "refused"


class Conflict(TpnetError):
    """Somebody else's intercept, or another agent, already has it."""

    exit_code = 4
    kind = "conflict"


class NotThere(TpnetError):
    """The agent, target, port, intercept or session that is named does not exist or does not answer."""

    exit_code = 5
    kind = "not-there"
