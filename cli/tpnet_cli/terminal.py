"""The terminal: how wide it is, whether it takes colour, and the line that turns while something takes long.

Every command prints through this, or through ``output.say``. It must never write a control code to what is not a
terminal, nor one that was not made here: names and messages are foreign text.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tpnet.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import ConsoleOptions, RenderableType

UNLIMITED = 10_000
"""Columns of what is not a terminal: a pipe gets every column and no cut text."""
PATIENCE = 0.5
"""Seconds that something may take before a terminal shows that it is under way."""

_STEP_NAME, _STEP_TEXT, _STEP_TIME = 9, 56, 7
"""Columns of the parts of a step's line; the time stands at the right end of 78."""

_FURTHER_IN = 4
"""Blanks before a line that goes on with the one above it."""

OK = ("✓", "green")
WAITING = ("!", "yellow")
BROKEN = ("✗", "red")


class CleanConsole(Console):
    """A console that shows what others wrote, and obeys none of it. What is bold or green is ours: styles are no text.

    Nor does what others wrote begin a line: what does not fit one goes on further in.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See ``Console.render``. Cells of tables come through here before they are cut to their width."""
        whole = options is None or options.max_width >= self.width
        if isinstance(renderable, Text) and whole and not renderable.no_wrap:
            renderable = self._hanging(renderable)
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text, lines=True), segment.style)

    def _hanging(self, text: Text) -> Text:
        if text.cell_len <= self.width:
            return text
        lines: list[Text] = []
        for line in text.split("\n", allow_blank=True):  # these are ours
            first, *more = line.wrap(self, self.width - _FURTHER_IN) or (line,)
            lines += [first, *(Text(" " * _FURTHER_IN) + part for part in more)]
        return Text("\n").join(lines)


def make_console(file: TextIO | None = None, width: int | None = None) -> Console:
    """A console on ``file`` (default: stdout). ``COLUMNS`` wins over the terminal; NO_COLOR is honoured."""
    stream = file or sys.stdout
    tty = stream.isatty() and os.environ.get("TERM") != "dumb"
    if width is None:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdigit() and int(columns) > 0:
            width = int(columns)
        elif not tty:
            width = UNLIMITED
    return CleanConsole(
        file=stream,
        width=width,
        force_terminal=tty,
        no_color=bool(os.environ.get("NO_COLOR")) or None,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def show(renderable: RenderableType, console: Console | None = None) -> None:
    """Print without blanks at the ends of lines, which tables would leave in files and pipes."""
    console = console or make_console()
    console.file.write(rendered(renderable, console))
    console.file.flush()


def rendered(renderable: RenderableType, console: Console) -> str:
    """The text that ``show`` prints."""
    buffer = io.StringIO()
    copy = CleanConsole(
        file=buffer,
        width=console.width,
        force_terminal=console.is_terminal,
        no_color=console.no_color,
        color_system=console.color_system,  # type: ignore[arg-type]  # rich says str, and means its own names
        highlight=False,
        markup=False,
        emoji=False,
    )
    copy.print(renderable, crop=False)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def mark(kind: tuple[str, str]) -> Text:
    """One of ``OK``, ``WAITING``, ``BROKEN`` as text; the colour only repeats what the sign says."""
    return Text(kind[0], style=kind[1])


class Steps:
    """What a command does while it does it: one line per step, written when the step is done.

    On a terminal a step that takes longer than ``PATIENCE`` shows a turning line until then.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[Watch]:
        """Run the block; ``what`` (a sentence without a full stop) is shown when it takes long."""
        watch = Watch()
        if self._quiet or not self._console.is_terminal:
            yield watch
            return
        status = self._console.status(Text(f"{what} …"), spinner="dots")
        watch.say = lambda text: status.update(Text(f"{text} …"))
        timer = threading.Timer(PATIENCE, status.start)
        timer.daemon = True
        timer.start()
        try:
            yield watch
        finally:
            timer.cancel()
            timer.join()
            status.stop()

    def done(self, kind: tuple[str, str], name: str, text: str, seconds: float | None = None) -> None:
        """Write a step's line: sign, name, what is true now, how long it took."""
        if self._quiet:
            return
        taken = ""
        if seconds is not None:
            taken = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
        # Whatever does not fit goes on under the text's own beginning.
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(no_wrap=True)
        line.add_column(width=_STEP_NAME, style="bold")
        line.add_column(min_width=_STEP_TEXT if taken else None)
        line.add_column(no_wrap=True, justify="right", min_width=_STEP_TIME, style="dim")
        line.add_row(mark(kind), name, text, taken)
        show(line, self._console)


class Watch:
    """A stop-watch that runs from its making."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.say: Callable[[str], None] | None = None
        """Changes what is shown meanwhile; ``None`` where nothing is."""

    @property
    def seconds(self) -> float:
        """Seconds since the making."""
        return time.monotonic() - self._start
