"""The phases of a conversation: what the client's next bytes are, and what leads from one phase to another.

The table is what the code goes by, and what the diagram in the reference is drawn from. All that is not a plain
number or a queue lies here; whether something is outstanding, and how it ends, is not the client's phase. Must
never hold a transition that the code does not take.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """What the client's next bytes are."""

    BETWEEN = "between messages"
    """They begin a message."""
    IN_HEAD = "in a head"
    """They go on with a head that has not arrived in full."""
    IN_BODY = "in a body"
    """They go on with a body."""
    WAITING = "waiting"
    """They are kept, and not looked at until what they wait for has come."""
    IGNORING = "ignoring"
    """They are dropped: nothing may follow the last message."""
    PINNED = "pinned"
    """They go to the pinned side as they come."""
    OVER = "over"
    """There are none: the end has been commanded."""

    ended: bool
    """Whether nothing is read as a message any more, in either direction."""

    def __init__(self, _text: str) -> None:
        self.ended = self.name in {"PINNED", "OVER"}


class Step(StrEnum):
    """What leads from one phase to another."""

    PART_OF_HEAD = "a part of a head"
    REST_OF_HEAD = "the rest of the head"
    HEAD_WITH_BODY = "a head with a body"
    BODY_ENDS = "the body ends"
    LAST_ENDS = "the last message ends"
    HOLD = "must wait"
    GO_ON = "may go on"
    GO_ON_WITH_BODY = "may go on, in a body"
    STOP = "nothing more is taken"
    PIN = "pin"
    END = "close or reset"


# Under names of their own: to look a member up in its class takes ten times as long (Python 3.11).
BETWEEN, IN_HEAD, IN_BODY, WAITING, IGNORING, PINNED, OVER = Phase
(
    PART_OF_HEAD, REST_OF_HEAD, HEAD_WITH_BODY, BODY_ENDS, LAST_ENDS, HOLD, GO_ON, GO_ON_WITH_BODY, STOP, PINS, ENDS,
) = Step  # fmt: skip

TRANSITIONS: Final[dict[Phase, dict[Step, Phase]]] = {
    BETWEEN: {
        PART_OF_HEAD: IN_HEAD,
        HEAD_WITH_BODY: IN_BODY,
        LAST_ENDS: IGNORING,
        HOLD: WAITING,
    },
    IN_HEAD: {REST_OF_HEAD: BETWEEN, HOLD: WAITING},
    IN_BODY: {BODY_ENDS: BETWEEN, LAST_ENDS: IGNORING, HOLD: WAITING},
    WAITING: {GO_ON: BETWEEN, GO_ON_WITH_BODY: IN_BODY},
    IGNORING: {},
    PINNED: {},
    OVER: {},
}
for _phase, _steps in TRANSITIONS.items():
    if not _phase.ended:
        _steps |= {STOP: IGNORING, PINS: PINNED, ENDS: OVER}
TRANSITIONS[PINNED][ENDS] = OVER


def diagram() -> str:
    """The table as a state diagram for Mermaid."""
    names = {phase: phase.name.lower() for phase in Phase}
    lines = ["stateDiagram-v2", *(f"    {name} : {phase.value}" for phase, name in names.items())]
    lines.append(f"    [*] --> {names[BETWEEN]}")
    for phase, steps in TRANSITIONS.items():
        lines += [f"    {names[phase]} --> {names[after]} : {step.value}" for step, after in steps.items()]
    return "\n".join([*lines, f"    {names[OVER]} --> [*]", ""])
