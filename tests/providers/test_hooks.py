from __future__ import annotations

import pytest

from groove_trio.providers.hooks import (
    MAX_TOUCHES,
    QUIET,
    TOOLS,
    UNKNOWABLE,
    Touch,
    read_hook,
    tool_operation,
)


def test_hook_reads_an_absolute_path_as_it_is() -> None:
    arguments = {"file_path": "/p/a.txt", "content": "x"}
    assert read_hook("Write", arguments, "/elsewhere") == [Touch("write", "/p/a.txt")]


def test_hook_reads_a_relative_path_from_the_hooks_directory() -> None:
    assert read_hook("Edit", {"file_path": "a.txt"}, "/p/in") == [Touch("write", "/p/in/a.txt")]


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_hook_knows_the_path_of_every_listed_tool(tool: str) -> None:
    operation, (argument, *_) = TOOLS[tool]
    assert read_hook(tool, {argument: "/p/a"}, "") == [Touch(operation, "/p/a")]
    assert tool_operation(tool) == operation


@pytest.mark.parametrize("tool", ["Bash", "run_shell_command", "mcp__files__poke", "", "write "])
def test_hook_cannot_know_what_other_tools_touch(tool: str) -> None:
    assert read_hook(tool, {"command": "echo > a", "file_path": "a"}, "/p") == UNKNOWABLE
    assert tool_operation(tool) is None


@pytest.mark.parametrize("path", [None, "", 7, ["a"], {"a": 1}, "a" * 4097])
def test_hook_cannot_know_a_write_without_a_proper_path(path: object) -> None:
    assert read_hook("Write", {"file_path": path}, "/p") == UNKNOWABLE


def test_hook_reads_a_search_without_a_path_as_one_of_its_directory() -> None:
    assert read_hook("Grep", {"pattern": "x"}, "/p") == [Touch("read", "/p")]


@pytest.mark.parametrize("tool", sorted(QUIET))
def test_hook_takes_a_quiet_tool_for_a_read(tool: str) -> None:
    assert read_hook(tool, {}, "") == [Touch("read", ".")]


def test_hook_reads_every_path_of_a_patch() -> None:
    patch = """*** Begin Patch
*** Add File: new.txt
+*** Delete File: only-text.txt
*** Update File: old.txt
*** Move to: moved.txt
*** Delete File: /p/gone.txt
*** End Patch"""
    assert read_hook("apply_patch", {"command": patch}, "/p") == [
        Touch("create", "/p/new.txt"),
        Touch("write", "/p/old.txt"),
        Touch("delete", "/p/old.txt"),
        Touch("create", "/p/moved.txt"),
        Touch("delete", "/p/gone.txt"),
    ]


@pytest.mark.parametrize("patch", [None, "", "no file named", 5])
def test_hook_cannot_know_a_patch_that_names_no_file(patch: object) -> None:
    assert read_hook("apply_patch", {"command": patch}, "/p") == UNKNOWABLE


def test_hook_refuses_a_patch_of_too_many_files() -> None:
    def patch(files: int) -> dict[str, str]:
        return {"command": "\n".join(f"*** Add File: f{number}" for number in range(files))}

    assert len(read_hook("apply_patch", patch(MAX_TOUCHES), "")) == MAX_TOUCHES
    assert read_hook("apply_patch", patch(MAX_TOUCHES + 1), "") == UNKNOWABLE
