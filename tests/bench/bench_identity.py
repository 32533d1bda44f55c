"""What it costs to know a caller, beside reading the kernel's table of all sockets.

    python tests/bench/bench_identity.py [SOCKETS [AGENTS]]

First among `SOCKETS` open sockets and no agent: the lookup through ``NETLINK_SOCK_DIAG``, all of
`Identity.identify`, and a search of ``/proc/net/tcp`` for the same socket. Then among agents: a
caller that is an agent's newest process, and one that is the owner's. Each figure is the median of
rounds, and of the last kind also the longest time that the loop was held up.
"""

from __future__ import annotations

import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from groove_trio.shell.census import Census
from groove_trio.shell.identity import Identity
from groove_trio.shell.spawning import raise_descriptor_limit
from groove_trio.words.base import AgentId

ROUNDS = 200
WANTED_US = 40.0


def connect(listener: socket.socket) -> tuple[socket.socket, trio.SocketStream]:
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    return client, trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def in_table(port: int) -> int:
    """The inode of the socket at a local port, from the kernel's table."""
    wanted = f":{port:04X}"
    with Path("/proc/net/tcp").open(encoding="ascii") as rows:
        for row in rows:
            fields = row.split()
            if fields[1].endswith(wanted):
                return int(fields[9])
    raise LookupError(port)


def median_us(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        act()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


async def identified(who: Identity, stream: trio.SocketStream, rounds: int) -> tuple[str, float]:
    """Who it is, and the median in µs."""
    times, name = [], ""
    for _ in range(rounds):
        begin = time.perf_counter()
        name = str(await who.identify(stream))
        times.append(time.perf_counter() - begin)
    return name, statistics.median(times) * 1e6


async def watch_loop(gaps: list[float]) -> None:
    # In processor time: on a busy machine the clock tells how long others took.
    last = time.thread_time()
    while True:
        await trio.lowlevel.checkpoint()
        now = time.thread_time()
        gaps.append(now - last)
        last = now


async def without_agents(listener: socket.socket, count: int) -> None:
    who = Identity(Census())
    held = [connect(listener) for _ in range(count // 2)]
    client, stream = held[len(held) // 2]
    port = client.getsockname()[1]
    lookup = median_us(lambda: who.check(stream))
    _, whole = await identified(who, stream, ROUNDS)
    table = median_us(lambda: in_table(port), 20)
    print(f"{count:,} sockets: lookup {lookup:.1f} us, identified {whole:.1f} us", end="")
    print(f" (wanted: under {WANTED_US:.0f}); /proc/net/tcp {table:,.0f} us", end="")
    print(f", {table / lookup:.0f} times as much")
    who.close()
    for one, other in held:
        one.close()
        await other.aclose()


async def with_agents(listener: socket.socket, count: int) -> None:
    census = Census()
    who = Identity(census)
    agents = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(count)]
    try:
        for number, child in enumerate(agents):
            census.enroll(AgentId(f"{number:08x}"), child.pid)
        await census.refresh()
        client, stream = connect(listener)
        newest = subprocess.Popen(
            ["sleep", "600"], start_new_session=True, pass_fds=[client.fileno()]
        )
        agents.append(newest)
        census.marks.put(newest.pid, AgentId("00000000"))
        name, agent_us = await identified(who, stream, 20)
        newest.kill()
        newest.wait()
        gaps: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_loop, gaps)
            owner, owner_us = await identified(who, stream, 5)
            nursery.cancel_scope.cancel()
        print(
            f"{count:,} agents: {name} {agent_us / 1e3:.2f} ms, {owner} {owner_us / 1e3:.2f} ms",
            end="",
        )
        print(f" with the loop held up for {max(gaps) * 1e3:.2f} ms at most")
        client.close()
        await stream.aclose()
    finally:
        for child in agents:
            child.kill()
            child.wait()
        who.close()


async def main(sockets: int, agents: int) -> None:
    raise_descriptor_limit()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < sockets + 100:
        sys.exit("the limit of descriptors is too low")
    with socket.create_server(("127.0.0.1", 0), backlog=sockets) as listener:
        for count in (10, sockets):
            await without_agents(listener, count)
        for count in (1, agents):
            await with_agents(listener, count)


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    trio.run(main, *(given + [1000, 100][len(given) :]))
