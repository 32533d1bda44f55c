"""The judge of the Autobahn runs: a run that proves less than it should is no pass."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

Problems = Callable[[Any, Sequence[str]], Iterator[str]]


@pytest.fixture
def problems() -> Problems:
    path = Path(__file__).with_name("autobahn.py")
    spec = importlib.util.spec_from_file_location("autobahn_judge", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Problems = module.problems
    return found


def verdicts(group: int, number: int) -> dict[str, dict[str, str]]:
    ok = {"behavior": "OK", "behaviorClose": "OK"}
    return {f"{group}.1.{each}": dict(ok) for each in range(1, number + 1)}


def test_a_whole_group_of_passes_is_a_pass(problems: Problems) -> None:
    assert list(problems(verdicts(3, 7), ["3.*"])) == []


def test_explained_cases_are_no_problem(problems: Problems) -> None:
    told = {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"}
    assert list(problems({"7.13.1": told}, ["7.13.1"])) == []


@pytest.mark.parametrize("field", ["behavior", "behaviorClose"])
@pytest.mark.parametrize(
    "verdict",
    ["FAILED", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "UNCLEAN", "WRONG CODE", ""],
)
def test_any_other_verdict_is_a_problem(problems: Problems, verdict: str, field: str) -> None:
    index = verdicts(3, 7)
    index["3.1.2"][field] = verdict
    [problem] = problems(index, ["3.*"])
    assert problem.startswith("3.1.2: ")
    assert verdict in problem


def test_an_explained_case_must_be_what_was_explained(problems: Problems) -> None:
    fields = {"behavior": "FAILED", "behaviorClose": "INFORMATIONAL"}
    assert len(list(problems({"7.13.1": fields}, ["7.13.1"]))) == 1


@pytest.mark.parametrize(
    ("number", "asked"), [(6, ["3.*"]), (0, ["3.*"]), (7, ["3.*", "4.*"]), (7, ["3.9.9"]), (0, [])]
)
def test_what_did_not_run_is_a_problem(problems: Problems, number: int, asked: list[str]) -> None:
    assert list(problems(verdicts(3, number), asked))
