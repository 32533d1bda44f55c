"""A daemon on a real socket, and what RFC 9110 and RFC 9112 ask of its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from groove_trio import Groove
from groove_trio.api.routes import FEED_PATH
from groove_trio.testing import open_test_groove

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
Answer = tuple[int, list[tuple[str, str]], bytes]


async def told(groove: Groove, *requests: bytes) -> list[Answer]:
    """All answers to requests that are sent at once, before our direction is closed."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", groove.port) as stream:
        await stream.send_all(b"".join(requests))
        await stream.send_eof()
        with trio.fail_after(10):
            while data := await stream.receive_some():
                received += data
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = [(n.lower(), v) for n, _, v in (line.partition(": ") for line in lines)]
        size = int(dict(fields).get("content-length", "0"))
        answers.append((int(first.split()[1]), fields, received[:size]))
        received = received[size:]
    return answers


def request(groove: Groove, first: str, **fields: str | None) -> bytes:
    said = {"Host": f"127.0.0.1:{groove.port}"} | fields
    lines = [f"{name.replace('_', '-')}: {v}" for name, v in said.items() if v is not None]
    return "\r\n".join([f"{first} HTTP/1.1", *lines, "", ""]).encode()


def members(fields: list[tuple[str, str]], name: str) -> set[str]:
    said = [value for found, value in fields if found == name]
    return {member.strip().lower() for value in said for member in value.split(",")}


async def test_all_that_was_asked_before_a_half_close_is_answered(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        paths = ["/api/health", "/api/agents", "/no/such", "/api/health"]
        answers = await told(groove, *(request(groove, f"GET {path}") for path in paths))
    assert [status for status, _, _ in answers] == [200, 200, 404, 200]
    assert [body[:1] for _, _, body in answers] == [b"{", b"[", b"{", b"{"]


@pytest.mark.parametrize(
    "changed",
    [dict.fromkeys(HANDSHAKE), {"Upgrade": "h2c"}, {"Sec-WebSocket-Version": "8"}],
    ids=["plain", "another protocol", "another version"],
)
async def test_426_says_what_to_upgrade_to(tmp_path: Path, changed: dict[str, str | None]) -> None:
    async with open_test_groove(tmp_path) as groove:
        fields = HANDSHAKE | changed
        [(status, said, _)] = await told(groove, request(groove, f"GET {FEED_PATH}", **fields))
    assert status == 426
    assert members(said, "upgrade") == {"websocket"}
    # RFC 9110, section 7.8: a sender of Upgrade must also name it in Connection
    assert "upgrade" in members(said, "connection")
    assert members(said, "sec-websocket-version") == {"13"}


@pytest.mark.parametrize(
    ("path", "changed", "status"),
    [
        (FEED_PATH, {"Sec-WebSocket-Key": None}, 400),
        (FEED_PATH, {"Sec-WebSocket-Key": "short"}, 400),
        (FEED_PATH, {"Connection": "keep-alive"}, 400),
        ("/api/health", {}, 400),
        ("/no/such", {}, 404),
    ],
)
async def test_a_wrong_handshake_is_told_why_and_closed(
    tmp_path: Path, path: str, changed: dict[str, str | None], status: int
) -> None:
    async with open_test_groove(tmp_path) as groove:
        asked = request(groove, f"GET {path}", **(HANDSHAKE | changed))
        [(found, said, _)] = await told(groove, asked, request(groove, "GET /api/health"))
    assert found == status
    assert members(said, "connection") == {"close"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_the_feed_takes_get_alone(tmp_path: Path, method: str) -> None:
    json = {"Content-Type": "application/json", "Content-Length": "0"}
    async with open_test_groove(tmp_path) as groove:
        [(status, said, _)] = await told(groove, request(groove, f"{method} {FEED_PATH}", **json))
    assert status == 405
    assert members(said, "allow") == {"get", "head", "options"}


async def test_options_tell_of_the_feed_and_of_the_server(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        asked = [request(groove, f"OPTIONS {target}") for target in (FEED_PATH, "*")]
        feed, server = await told(groove, *asked)
    assert (feed[0], members(feed[1], "allow")) == (204, {"get", "head", "options"})
    assert server[0] == 204


@pytest.mark.parametrize("path", ["/api/health", "/no/such", FEED_PATH])
async def test_what_will_not_come_is_not_to_be_expected(tmp_path: Path, path: str) -> None:
    async with open_test_groove(tmp_path) as groove:
        asked = request(groove, f"GET {path}", Expect="the-unexpected")
        [(status, said, body)] = await told(groove, asked, request(groove, "GET /api/health"))
    assert status == 417
    assert members(said, "connection") == {"close"}
    assert members(said, "content-type") == {"application/problem+json"}
    assert b"urn:groove-trio:problem:expectation-failed" in body


async def test_a_peer_that_sends_ahead_and_never_reads_stops_itself_alone(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        asked = request(groove, "GET /api/openapi.json") * 500
        async with await trio.open_tcp_stream("127.0.0.1", groove.port) as deaf:
            sent = 0
            stuck = False
            while not stuck:
                with trio.move_on_after(0.5) as patience:
                    await deaf.send_all(asked)
                    sent += len(asked)
                stuck = patience.cancelled_caught
                assert sent < 32 * 1024 * 1024  # what two kernel buffers hold at the very most
                [(status, _, _)] = await told(groove, request(groove, "GET /api/health"))
                assert status == 200
