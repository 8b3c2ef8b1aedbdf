"""Tables without borders that fit: on a narrow terminal the least needed columns are left out, nothing wraps.

The views use it. Pure: the width is given, nothing is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from tpnet.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

Cell = str | Text

GAP = 2
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column and how much it is needed.

    ``keep``: the column with the lowest goes first when the table is too wide; 0 is shown only with
    ``-o wide``; ``ALWAYS`` is never left out. ``least``: its texts may be cut, with an ellipsis, to this
    width; 0 for never.
    """

    header: str
    keep: int = 50
    align: Literal["left", "right"] = "left"
    least: int = 0


ALWAYS = 100


def make_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    width: int,
    *,
    wide: bool = False,
    header: bool = True,
) -> Table:
    """A table of at most ``width`` terminal columns.

    ``rows`` have a cell for each column, also for those left out.
    """
    cells = [[_one_line(cell) for cell in row] for row in rows]
    natural = [
        max([len(column.header) if header else 0, *(row[index].cell_len for row in cells)])
        for index, column in enumerate(columns)
    ]
    # A column that says nothing in any row is left out, unless it is one of those always there.
    shown = [
        index
        for index, column in enumerate(columns)
        if (column.keep > 0 or wide) and (column.keep >= ALWAYS or any(row[index].plain for row in cells))
    ]
    # A column that may be cut counts with what it can be cut to.
    least = [
        min(size, column.least) if column.least else size
        for size, column in zip(natural, columns, strict=True)
    ]
    while _total(least, shown) > width:
        droppable = [index for index in shown if columns[index].keep < ALWAYS]
        if not droppable:
            break
        # Of two that are needed alike, the one further right goes.
        shown.remove(min(droppable, key=lambda index: (columns[index].keep, -index)))
    _squeeze(natural, least, shown, _total(natural, shown) - width)

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=header, header_style="bold")
    for index in shown:
        column = columns[index]
        table.add_column(
            column.header, justify=column.align, no_wrap=True, overflow="ellipsis", width=natural[index]
        )
    for row in cells:
        table.add_row(*(row[index] for index in shown))
    return table


def _one_line(cell: Cell) -> Text:
    """What others wrote makes no further line of a table, whose beginning would look like a row."""
    if isinstance(cell, Text):
        return cell if "\n" not in cell.plain else Text(clean(cell.plain), style=cell.style)
    return Text(clean(cell))


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[index] for index in shown) + GAP * (len(shown) - 1) if shown else 0


def _squeeze(widths: list[int], least: Sequence[int], shown: Sequence[int], excess: int) -> None:
    """Take ``excess`` off the columns that may be cut, each time from the widest of them."""
    while excess > 0:
        cuttable = [index for index in shown if widths[index] > least[index]]
        if not cuttable:
            return
        widths[max(cuttable, key=lambda index: widths[index])] -= 1
        excess -= 1
