"""``tpnet lab demo``, which ``make demo`` runs: a lab of its own, the story, and nothing left behind.

It must clean up whatever happens short of ``kill -9``, also on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from typing import TYPE_CHECKING

from tpnet.model import NotThere
from tpnet_cli.lab import build, story
from tpnet_cli.lab.plan import lab_paths
from tpnet_cli.lab.stage import Stage
from tpnet_cli.output import say
from tpnet_cli.terminal import OK, Steps, make_console

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tpnet_cli.lab.plan import LabPaths


def play(*, keep: bool = False) -> int:
    """Build, play, remove (unless ``keep``). Gives the exit code: 1 when an expectation did not hold.

    Raises what ``build.up`` raises, ``KeyboardInterrupt`` when it was interrupted; the lab is removed before.
    """
    begun = time.monotonic()
    console = make_console()
    paths = lab_paths(f"demo-{secrets.token_hex(3)}")
    steps = Steps(console)
    kept = False
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP):
        try:
            with steps.doing("building the lab"):
                build.up(paths, lambda part, text: steps.done(OK, part, text))
            stage = Stage(paths, console)
            try:
                story.play(stage)
            finally:
                stage.close()
            kept = keep
        finally:
            if not kept:
                _remove(paths)
    say("")
    for failure in stage.failures:
        say(f"✗ {failure}")
    held = stage.expected - len(stage.failures)
    say(f"{held} of {stage.expected} expectations held, in {time.monotonic() - begun:.0f} s.")
    if kept:
        say(f"The lab stays. Remove it: tpnet lab down --name {paths.name}")
    return 1 if stage.failures else 0


def _remove(paths: LabPaths) -> None:
    """Remove the lab, and do not let an impatient second Ctrl-C leave half of it."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.suppress(NotThere):
            build.down(paths)
    finally:
        signal.signal(signal.SIGINT, former)


@contextlib.contextmanager
def _interrupted_by(*numbers: int) -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
