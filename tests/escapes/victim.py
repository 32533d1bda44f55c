"""Another agent: it takes what the attacker has let go of, as the user's programs might."""

from __future__ import annotations

import glob
import json
import os
import pty
import socket
import sys
import time
from typing import Any


def main(project: str) -> None:
    """Does what files in each attacker's ``src/asked`` ask for; each answer is a file."""
    told = f"{project}/victim"
    kept: list[Any] = []
    done: set[str] = set()
    print("up", flush=True)
    while True:
        for path in set(glob.glob(f"{project}/*/src/asked/*.json")) - done:
            done.add(path)
            name = os.path.basename(path)
            with open(path, encoding="utf-8") as file:
                wish = json.load(file)
            if wish["do"] == "bind":
                mine = socket.socket(socket.AF_UNIX)
                mine.bind(b"\0" + wish["name"].encode())
                mine.listen()
                kept.append(mine)
                answer = ""
            else:
                kept.append(pty.openpty())
                answer = os.ttyname(kept[-1][1])
            with open(f"{told}/{name}.new", "w", encoding="utf-8") as file:
                file.write(answer)
            os.rename(f"{told}/{name}.new", f"{told}/{name}")
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
