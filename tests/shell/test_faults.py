"""Errors without the groups around them."""

from __future__ import annotations

import pytest

from groove_trio.shell.faults import innermost, kinds

ERROR = OSError("full")
TWO = ExceptionGroup("two", [ERROR, ExceptionGroup("deep", [ValueError("odd"), OSError("again")])])


@pytest.mark.parametrize(
    ("error", "lone", "told"),
    [
        (ERROR, ERROR, "OSError"),
        (ExceptionGroup("a", [ExceptionGroup("b", [ERROR])]), ERROR, "OSError"),
        (TWO, TWO, "OSError, ValueError"),
        (ExceptionGroup("a", [TWO]), TWO, "OSError, ValueError"),
    ],
)
def test_a_lone_error_comes_out_of_its_groups_and_several_are_all_named(
    error: BaseException, lone: BaseException, told: str
) -> None:
    assert innermost(error) is lone
    assert kinds(error) == told
