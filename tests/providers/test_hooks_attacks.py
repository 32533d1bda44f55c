"""Paths that the hook and the tool behind it could read in two ways."""

from __future__ import annotations

import time

import pytest

from groove_trio.providers.hooks import UNKNOWABLE, Touch, read_hook


def patched(*lines: str) -> list[Touch]:
    return read_hook("apply_patch", {"command": "\n".join(lines)}, "/p")


@pytest.mark.parametrize("path", ["~/x", "~", "~root/x", " x", "x ", "x\r", "\u00a0x", "x\0y"])
@pytest.mark.parametrize("tool", ["Write", "Read"])
def test_path_that_tools_rewrite_is_unknowable(tool: str, path: str) -> None:
    assert read_hook(tool, {"file_path": path}, "/p") == UNKNOWABLE
    assert patched(f"*** Update File: {path}") == UNKNOWABLE


def test_name_with_a_tilde_further_on_is_a_name() -> None:
    assert read_hook("Write", {"file_path": "./~x"}, "/p") == [Touch("write", "/p/./~x")]
    assert read_hook("Write", {"file_path": "a~"}, "/p") == [Touch("write", "/p/a~")]


def test_dots_are_taken_as_the_kernel_and_as_text() -> None:
    assert read_hook("Write", {"file_path": "link/../x"}, "/p") == [
        Touch("write", "/p/link/../x"),
        Touch("write", "/p/x"),
    ]
    assert read_hook("Read", {"file_path": "/p/a/../x"}, "") == [
        Touch("read", "/p/a/../x"),
        Touch("read", "/p/x"),
    ]


def test_letters_are_taken_as_they_are_and_as_composed() -> None:
    assert read_hook("Write", {"file_path": "e\u0301"}, "/p") == [
        Touch("write", "/p/e\u0301"),
        Touch("write", "/p/\u00e9"),
    ]


def test_patch_says_what_it_does_behind_blanks_too() -> None:
    assert patched("*** Add File: a", "+x", " \t*** Delete File: b", "\u00a0*** Add File: c") == [
        Touch("create", "/p/a"),
        Touch("delete", "/p/b"),
        Touch("create", "/p/c"),
    ]


def test_file_that_a_patch_moves_is_written_through_a_link_at_its_new_name() -> None:
    assert patched("*** Update File: a", "*** Move to: b") == [
        Touch("write", "/p/a"),
        Touch("delete", "/p/a"),
        Touch("create", "/p/b"),
    ]


@pytest.mark.parametrize(
    "line",
    ["*** Copy File: b", "*** update file: b", "***Add File: b", "*** Add File:b", "*** Move to:"],
)
def test_patch_with_a_line_nobody_knows_is_unknowable(line: str) -> None:
    assert patched("*** Add File: a", "+x", line) == UNKNOWABLE


def test_marks_around_a_patch_are_known() -> None:
    hunk = ["*** Update File: a", "@@", " ***", " *** a rule", "+x", "*** End of File"]
    assert patched("<<'EOF'", "*** Begin Patch", *hunk, "*** End Patch", "EOF") == [
        Touch("write", "/p/a")
    ]


@pytest.mark.parametrize("patch", ["\n" * 10**6, " " * 10**6, "*** Add File: a\n" * 60_000])
def test_any_patch_is_read_fast(patch: str) -> None:
    began = time.process_time()
    read_hook("apply_patch", {"command": patch}, "")
    assert time.process_time() - began < 1
