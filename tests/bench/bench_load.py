"""The daemon under load: 500 idle connections, 64 subscribers and 32 busy clients at once.

    python tests/bench/bench_load.py [SECONDS]

Four agents write all the while. The p99 of ``GET /api/health`` over a kept connection is taken
first with nobody else there, then under load; all clients are processes of their own, so that on
a machine with few cores they also compete with the daemon for time. Exits with 1 when the owner
saw an error, when memory grew, or when the p99 under load is more than `MAX_RATIO` times the idle.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import load

from groove_trio.cli.launch import start_detached, stop_daemon

MAX_RATIO = 10.0
MAX_GROWTH_KB = 8 * 1024  # over the second half, when the history of events has long been full
SETTLED = 4  # the moment, of ten, from which on memory has to be flat
IDLE_PROBES = 1500


def spawn_speakers(url: str) -> None:
    connection = http.client.HTTPConnection(*load.address_of(url), timeout=load.TIMEOUT_S)
    for spec in load.speakers():
        body = json.dumps(spec).encode()
        connection.request("POST", "/api/agents", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 201, said
    connection.close()


def measure(project: Path, seconds: float) -> list[str]:
    """Prints what was found; gives what is wrong with it."""
    started = start_detached(project, port=0)
    try:
        with load.crowd("probe", started.url, IDLE_PROBES) as probe:
            idle = probe.finish()
        spawn_speakers(started.url)
        siege = load.besiege(started.url, started.pid, seconds)
        after = load.vitals(started.pid)
    finally:
        stop_daemon(project)
    ratio = siege.probe["p99_ms"] / idle["p99_ms"]
    tell(siege, idle, ratio, after)
    growth = siege.moments[-1].rss_kb - siege.moments[SETTLED].rss_kb
    wrong = list(siege.errors)
    if growth > MAX_GROWTH_KB:
        wrong.append(f"memory grew by {growth} kB in the second half")
    if ratio > MAX_RATIO:
        wrong.append(f"p99 under load is {ratio:.1f} times the idle one")
    return wrong


def tell(siege: load.Siege, idle: dict[str, Any], ratio: float, after: load.Vitals) -> None:
    first, last = siege.moments[0], siege.moments[-1]
    spent = (last.cpu_s - first.cpu_s) / (last.at_s - first.at_s)
    print(f"health, ms     p50    p99  worst   fresh connection p99   ({ratio:.1f} times at p99)")
    for name, probe in (("idle", idle), ("load", siege.probe)):
        figures = [probe[key] for key in ("p50_ms", "p99_ms", "worst_ms", "fresh_p99_ms")]
        print("  {:8} {:6.2f} {:6.2f} {:6.1f} {:12.2f}".format(name, *figures))
    seconds = last.at_s - first.at_s
    print(f"busy         {siege.busy['answers']} answers, p99 {siege.busy['p99_ms']:.1f} ms")
    print(
        f"subscribers  {sum(siege.subscribers['events'])} events, {siege.subscribers['gaps']} gaps"
    )
    held, lost, away = (siege.idlers[key] for key in ("held", "lost", "turned_away"))
    print(f"idle         {held} held at the end, {lost} ended, {away} turned away with 503")
    print(f"daemon       {spent:.0%} of a core over {seconds:.0f} s")
    print(f"RSS, MiB     {' '.join(f'{each.rss_kb / 1024:.1f}' for each in siege.moments)}")
    counts = " ".join(str(each.descriptors) for each in siege.moments)
    print(f"descriptors  {counts}, then {after.descriptors}")


def main(seconds: float) -> int:
    with tempfile.TemporaryDirectory() as place:
        project = Path(place).resolve() / "project"
        project.mkdir()
        wrong = measure(project, seconds)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
