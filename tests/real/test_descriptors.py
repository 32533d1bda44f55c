"""A daemon in a process of its own that has few descriptors, and callers who take them all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

DESCRIPTORS = 64

DAEMON = f"""
import resource, sys, trio
from pathlib import Path
from groove_trio import AgentSpec, Config, open_groove

resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))

async def main():
    async with open_groove(Config(project=Path(sys.argv[1]), port=0)) as groove:
        if sys.argv[2] == "agent":
            await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"]))
        print(groove.port, flush=True)
        with trio.open_signal_receiver(2) as signals:
            async for _ in signals:
                break

trio.run(main)
"""


class Daemon:
    """What the callers know of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.port = int(process.stdout.readline())
        self.host = b"Host: 127.0.0.1:%d\r\n" % self.port

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def connect(self, said: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        await stream.send_all(said)
        return stream

    async def follow(self) -> trio.SocketStream | None:
        """A WebSocket, if there is room for one."""
        said = (
            b"GET /ws HTTP/1.1\r\n" + self.host + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        stream = await self.connect(said)
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            if (await stream.receive_some()).startswith(b"HTTP/1.1 101 "):
                return stream
        await trio.aclose_forcefully(stream)
        return None

    async def ask(self) -> int:
        """The status of an answer, which comes in any case; 0 for a connection that is closed."""
        said = b"GET /api/health HTTP/1.1\r\n" + self.host + b"Connection: close\r\n\r\n"
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            async with await self.connect(said) as stream:
                return await status(stream)
        return 0

    async def ask_until(self, wanted: int) -> set[int]:
        """Asks until that is the answer; all answers."""
        found: set[int] = set()
        with trio.fail_after(20):
            while wanted not in found:
                found.add(await self.ask())
                await trio.sleep(0.01)
        return found


async def status(stream: trio.SocketStream) -> int:
    with trio.fail_after(10):
        answer = await stream.receive_some()
    return int(answer.split(b" ")[1]) if answer else 0


async def until_resting(daemon: Daemon, descriptors: int) -> None:
    with trio.fail_after(20):
        while daemon.descriptors() > descriptors:
            await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def daemon_on(project: Path, how: str) -> AsyncIterator[Daemon]:
    """A daemon, and afterwards proof that it still ends as it should."""
    command = [sys.executable, "-c", DAEMON, str(project), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            try:
                yield Daemon(process)
            except BaseException:
                process.send_signal(signal.SIGINT)
                print(process.communicate(None, 30)[1].decode())
                raise
            process.send_signal(signal.SIGINT)
            _, told = await trio.to_thread.run_sync(process.communicate, None, 30)
            assert (process.returncode, b"Traceback" in told) == (0, False), told.decode()
            # With an agent, they may be out before: it takes some to look who is calling.
            assert how == "agent" or b"cannot accept connections" in told
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["alone", "agent"])
async def test_idle_callers_make_room_and_busy_ones_go_on(tmp_path: Path, how: str) -> None:
    async with daemon_on(tmp_path, how) as daemon:
        resting = daemon.descriptors()
        feed = await daemon.follow()
        assert feed is not None
        busy = await daemon.connect(
            b"POST /api/agents HTTP/1.1\r\n" + daemon.host + b"Content-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n"
        )
        idle = [await daemon.connect() for _ in range(2 * DESCRIPTORS)]
        assert await daemon.ask_until(200) <= {200, 503}
        for _ in range(20):
            assert await daemon.ask() == 200
        await busy.send_all(b"{}")
        assert await status(busy) == 400
        await feed.send_all(b"\x89\x80abcd")  # a ping
        with trio.fail_after(10):
            while b"\x8a\x00" not in await feed.receive_some():
                pass
        for stream in [*idle, feed, busy]:
            await trio.aclose_forcefully(stream)
        await until_resting(daemon, resting)
        assert await daemon.ask() == 200


@pytest.mark.parametrize("how", ["alone", "agent"])
async def test_without_room_a_caller_is_told_and_let_in_as_soon_as_there_is(
    tmp_path: Path, how: str
) -> None:
    async with daemon_on(tmp_path, how) as daemon:
        resting = daemon.descriptors()
        feeds: list[trio.SocketStream] = []
        while (feed := await daemon.follow()) is not None:
            feeds.append(feed)
        assert DESCRIPTORS - resting - 8 <= len(feeds) <= DESCRIPTORS - resting
        for _ in range(5):
            assert await daemon.ask() == 503
        for feed in feeds[:6]:
            await trio.aclose_forcefully(feed)
        assert await daemon.ask_until(200) <= {200, 503}
        for feed in feeds[6:]:
            await trio.aclose_forcefully(feed)
        await until_resting(daemon, resting)
        assert await daemon.ask() == 200
