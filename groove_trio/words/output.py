"""What an agent wrote, line by line."""

from __future__ import annotations

from typing import Literal

from groove_trio.words.base import Word

Stream = Literal["out", "err"]


class OutputLine(Word):
    """One line that an agent wrote: one line of its ``output.jsonl``.

    `seq` counts from 1 without gaps over all runs of the agent. `partial` marks a piece of
    a line too long to hold in memory; the piece that ends the line is not partial.
    """

    seq: int
    time: str
    stream: Stream
    text: str
    partial: bool = False


class OutputPage(Word):
    """Lines after a sequence number; `next` is the `after` of the page that follows."""

    lines: list[OutputLine]
    next: int
    more: bool
