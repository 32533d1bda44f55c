"""Finding the daemon of a project, and not somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from groove_trio.client.find import Address, address_of, find_project, parse_url
from groove_trio.words.errors import Unreachable


def _start_ticks(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])


def _publish(project: Path, **changes: object) -> None:
    facts = {
        "pid": os.getpid(),
        "startTicks": _start_ticks(os.getpid()),
        "bootId": "",
        "url": "http://127.0.0.1:9",
        "port": 9,
        "version": "0.1.0",
    } | changes
    (project / ".groove").mkdir(parents=True, exist_ok=True)
    (project / ".groove" / "daemon.json").write_text(json.dumps(facts))


def test_find_project_walks_up(tmp_path: Path) -> None:
    _publish(tmp_path)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_project(deep) == tmp_path
    assert find_project(tmp_path) == tmp_path


def test_find_project_takes_the_nearest(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    _publish(tmp_path)
    _publish(inner)
    assert find_project(inner / "src") == inner


def test_find_project_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="groove-trio start"):
        find_project(tmp_path)


def test_find_project_begins_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_project() == tmp_path


def test_address_is_what_the_daemon_published(tmp_path: Path) -> None:
    _publish(tmp_path, url="http://[::1]:4242")
    assert address_of(tmp_path) == Address("::1", 4242)
    assert address_of(tmp_path).url == "http://[::1]:4242"


def test_address_of_an_ended_process_is_not_believed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ticks = _start_ticks(ended.pid)
    ended.wait()
    _publish(tmp_path, pid=ended.pid, startTicks=ticks)
    with pytest.raises(Unreachable, match="no daemon runs"):
        address_of(tmp_path)


def test_address_of_a_recycled_pid_is_not_believed(tmp_path: Path) -> None:
    _publish(tmp_path, startTicks=_start_ticks(os.getpid()) - 1)
    with pytest.raises(Unreachable, match="no daemon runs"):
        address_of(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"url": 5, "pid": 1}',
        '{"url": "http://h:1", "pid": "x"}',
        '{"url": "http://h:1", "pid": null, "startTicks": 1}',
        "[" * 100_000,
        "\0",
    ],
)
def test_address_of_a_broken_file_is_no_address(tmp_path: Path, text: str) -> None:
    (tmp_path / ".groove").mkdir()
    (tmp_path / ".groove" / "daemon.json").write_text(text)
    with pytest.raises(Unreachable, match="no daemon runs"):
        address_of(tmp_path)


def test_url_round_trips() -> None:
    for url in ("http://127.0.0.1:31415", "http://[::1]:1", "http://localhost:65535"):
        assert parse_url(url).url == url
        assert parse_url(url + "/").url == url
