"""The ``groove-trio`` command. Importing this package loads nothing; `main` is the click group."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groove_trio.cli.root import main

__all__ = ["main"]


def __getattr__(name: str) -> object:
    # Lazy, because the daemon's own process is a module of this package and needs no click.
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from groove_trio.cli.root import main

    return main
