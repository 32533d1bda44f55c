"""``python -m groove_trio`` is ``groove-trio``."""

from __future__ import annotations

from groove_trio.cli import main

if __name__ == "__main__":
    main(prog_name="groove-trio")
