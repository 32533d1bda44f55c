"""Runs the Autobahn test-suite's fuzzing client against the echo server of the examples.

Usage: autobahn.py WSTEST REPORTS [CASE...]. WSTEST is the suite's command, REPORTS a directory for
its pages, a CASE one such as 9.1.3 or a group such as "9.*"; without any, all are run.

Fails for every case that is not plainly OK and not explained here, for every case that did not
run, and for anything that the server says on standard error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "echo_server.py"
AGENT = "groove-trio"
DEADLINE_S = 4 * 3600  # all cases took the better part of an hour on two busy cores

GROUPS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}
"""How many cases each group of version 25.10.1 has; there never were an 8 and an 11."""

LEFT_OPEN = "INFORMATIONAL"
EXPLAINED = {
    "7.1.6": (LEFT_OPEN, "Two messages, a close, a ping at once: both come back, then the close."),
    "7.13.1": (LEFT_OPEN, "Close code 5000, which RFC 6455 does not define: refused with 1002."),
    "7.13.2": (LEFT_OPEN, "Close code 65535, which RFC 6455 does not define: refused with 1002."),
}
"""The cases that are not plainly OK: what the suite says of each, and why that is right."""

Index = Mapping[str, Mapping[str, Any]]


def problems(index: Index, asked: Sequence[str]) -> Iterator[str]:
    """What is wrong with the outcome of a run.

    Args:
        index: The suite's own verdict on each case.
        asked: The cases and groups that were to be run.
    """
    for case, verdict in index.items():
        said = {str(verdict["behavior"]), str(verdict["behaviorClose"])}
        expected, _ = EXPLAINED.get(case, ("OK", ""))
        if said != {expected}:
            yield f"{case}: {' and '.join(sorted(said))} instead of {expected}"
    ran = Counter(int(case.partition(".")[0]) for case in index)
    for each in asked:
        if group := re.fullmatch(r"(\d+)\.\*", each):
            number = int(group[1])
            if ran[number] != GROUPS.get(number):
                yield f"group {each}: {ran[number]} cases ran, not {GROUPS.get(number)}"
        elif "*" not in each and each not in index:
            yield f"{each}: did not run"
    if not index:
        yield "nothing ran"


def run(wstest: str, reports: Path, cases: Sequence[str]) -> tuple[Index, str]:
    """Runs cases against a server of their own; gives the verdicts and what the server said."""
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "index.json").unlink(missing_ok=True)
    command = [sys.executable, str(EXAMPLE), "127.0.0.1", "0"]
    errors = reports / "server.log"
    with (
        errors.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as server,
    ):
        try:
            assert server.stdout is not None
            address = server.stdout.readline().decode().split()[-1]
            spec = {
                "outdir": str(reports),
                "servers": [{"agent": AGENT, "url": f"ws://{address}"}],
                "cases": list(cases),
            }
            (reports / "spec.json").write_text(json.dumps(spec))
            suite = [wstest, "-m", "fuzzingclient", "-s", str(reports / "spec.json")]
            subprocess.run(suite, check=True, timeout=DEADLINE_S)
        finally:
            server.kill()
    index = json.loads((reports / "index.json").read_text())
    return index.get(AGENT, {}), errors.read_text()


def main(wstest: str, reports: str, *cases: str) -> int:
    """Prints a line for each group and each problem; gives the exit status."""
    asked = cases or tuple(f"{group}.*" for group in GROUPS)
    start = time.monotonic()
    index, said = run(wstest, Path(reports).resolve(), asked)
    took = time.monotonic() - start
    tally = Counter((int(case.partition(".")[0]), v["behavior"]) for case, v in index.items())
    for (group, verdict), number in sorted(tally.items()):
        print(f"{group:>3}.*  {number:>4} {verdict}")
    for case in sorted(EXPLAINED.keys() & index.keys()):
        print(f"{case}: {' '.join(EXPLAINED[case])}")
    found = [*problems(index, asked), *([f"the server said: {said}"] if said else [])]
    print(f"{len(index)} cases in {took:.0f} s", *found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
