"""How things are printed: JSON for programs; for people plain lines and, by rich, tables.

What an agent wrote or named goes to a terminal only without control characters: a terminal obeys
them, and an agent must not give the owner's terminal orders.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from groove_trio.words.errors import GrooveError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNBOUNDED = 1_000_000  # columns, where no terminal sets a width: nothing is cut or wrapped
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")  # SGR: the one kind of sequence that only looks
_STATE_STYLES = {
    "running": "green",
    "starting": "cyan",
    "stopping": "yellow",
    "backing-off": "yellow",
    "parked": "red",
    "failed": "red",
    "interrupted": "magenta",
}


def to_json(value: object) -> str:
    """One line of JSON."""
    return msgspec.json.encode(value).decode()


def print_json(value: object) -> None:
    """Prints one JSON document, on one line."""
    click.echo(to_json(value))


def problem_line(error: GrooveError) -> str:
    """An error as a problem document, on one line."""
    from groove_trio.client import problem_of

    return msgspec.json.encode(problem_of(error), enc_hook=str).decode()


def safe(text: str) -> str:
    """Text without control characters, on one line."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def line_text(text: str, *, colours: bool) -> str:
    """A line of output as an agent wrote it: tabs stay, colours if asked for, the rest is shown."""
    if text.isprintable():
        return text
    if not colours:
        return _plain(_COLOUR.sub("", text))
    pieces: list[str] = []
    start = 0
    for match in _COLOUR.finditer(text):
        pieces += (_plain(text[start : match.start()]), match.group())
        start = match.end()
    return "".join((*pieces, _plain(text[start:]), "\x1b[0m" if start else ""))


def _plain(text: str) -> str:
    # A carriage return at the end is a line end of another kind, not an overwriting.
    return "".join(
        each if each.isprintable() or each == "\t" else _escaped(each)
        for each in text.removesuffix("\r")
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def colours_wanted() -> bool:
    """Whether standard output is a terminal that shows colours, and nobody objects."""
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def console() -> Console:
    """Rich's console on standard output: colours and a width only where there is a terminal."""
    from rich.console import Console

    return Console(
        width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False, markup=False, emoji=False
    )


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of plain cells; a cell in the column "state" is coloured."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        cells = ["" if cell is None else safe(str(cell)) for cell in row]
        table.add_row(
            *(
                Text(cell, _STATE_STYLES.get(cell, "") if column == "state" else "")
                for column, cell in zip(columns, cells, strict=True)
            )
        )
    return table


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], none: str) -> None:
    """Prints a table, or the sentence `none` when there are no rows."""
    if not rows:
        click.echo(none)
        return
    out = console()
    with out.capture() as captured:
        out.print(make_table(columns, rows))
    # Cells are padded to the width of their column; nobody wants the blanks at the end.
    lines = captured.get().splitlines()
    click.echo("\n".join(line.rstrip() for line in lines))


def _lines_of(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value  # pyright: ignore[reportUnknownVariableType] - of whatever is printed
    return [] if value is None else [value]


def print_facts(facts: dict[str, Any]) -> None:
    """Prints names and values, one a line; a list takes a line for each of its own.

    What is None, or an empty list, is left out. Needs no rich.
    """
    width = max(map(len, facts))
    for name, value in facts.items():
        for first, line in enumerate(_lines_of(value)):
            click.echo(f"{'' if first else name:<{width}}  {safe(str(line))}")


def patterns_text(patterns: Sequence[str]) -> str:
    """A scope in one cell."""
    return " ".join(patterns) if patterns else "(read-only)"


def duration_text(seconds: float) -> str:
    """A duration for people, such as ``2 h 5 min``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def clock_text(time: str | None) -> str:
    """A time of the wire (RFC 3339, UTC) as local date and time, to the second."""
    if time is None:
        return ""
    from datetime import datetime

    from groove_trio.words.clock import NS, parse_rfc3339

    try:
        return datetime.fromtimestamp(parse_rfc3339(time) / NS).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return time
