from __future__ import annotations

import pytest

from groove_trio.providers.base import Launch, Place, Provider, encode_line
from groove_trio.providers.command import CommandProvider
from groove_trio.words.agents import AgentSpec
from groove_trio.words.base import AgentId
from groove_trio.words.errors import BadRequest

PLACE = Place(
    project="/p", cwd="/p", agent=AgentId("00000001"), name="a", url="http://127.0.0.1:1", tmp="/t"
)


def launch(**fields: object) -> Launch:
    return CommandProvider().launch(AgentSpec(role="worker", **fields), PLACE)  # type: ignore[arg-type]


def test_command_is_a_provider() -> None:
    assert isinstance(CommandProvider(), Provider)


def test_argv_is_taken_as_it_is() -> None:
    argv = ["sh", "-c", "echo $HOME; *", "", "ä\n"]
    assert launch(argv=argv).argv == tuple(argv)


@pytest.mark.parametrize("argv", [[], [""], ["", "x"]])
def test_argv_without_a_program_is_refused(argv: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        launch(argv=argv)
    assert caught.value.fields["field"] == "argv"


def test_prompt_is_standard_input_and_then_comes_its_end() -> None:
    asked = launch(argv=["cat"], prompt="do it")
    assert (asked.stdin, asked.keep_open) == (b"do it\n", False)
    assert launch(argv=["cat"]).stdin == b""


def test_interactive_keeps_standard_input_open() -> None:
    assert launch(argv=["cat"], interactive=True).keep_open


def test_a_follow_up_is_one_line() -> None:
    assert CommandProvider().instruct("go on") == b"go on\n"
    assert CommandProvider().instruct("ä\n") == "ä\n".encode()


def test_a_lone_surrogate_is_refused_with_its_place() -> None:
    with pytest.raises(BadRequest, match="surrogate at character 2"):
        encode_line("ab\udc80")


def test_a_launch_never_shows_prompt_or_environment() -> None:
    shown = repr(Launch(argv=("x",), env={"KEY": "hunter2"}, stdin=b"hunter2"))
    assert "hunter2" not in shown
