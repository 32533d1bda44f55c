"""Problem documents become the errors that they were."""

from __future__ import annotations

import json

import pytest

from groove_trio.client import problem_of
from groove_trio.client.faults import decode_answer, error_from
from groove_trio.words import errors
from groove_trio.words.daemon import Health
from groove_trio.words.errors import GrooveError, RemoteError


def _kinds() -> list[type[GrooveError]]:
    kinds = [GrooveError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [kind for kind in kinds if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.slug)
def test_error_survives_the_wire(kind: type[GrooveError]) -> None:
    before = kind("what was wrong", witness="src/a.py", until=None)
    after = error_from(before.status, json.dumps(problem_of(before)).encode())
    assert type(after) is kind
    assert (after.detail, after.fields) == (before.detail, before.fields)


def test_error_takes_fields_of_any_name() -> None:
    problem = {"type": "urn:groove-trio:problem:locked", "detail": "x", "self": 1, "fields": 2}
    error = error_from(423, json.dumps(problem).encode())
    assert error.fields == {"self": 1, "fields": 2}


def test_error_of_an_unknown_kind_is_remote() -> None:
    problem = {"type": "urn:groove-trio:problem:news", "title": "New", "status": 418, "x": 1}
    error = error_from(418, json.dumps(problem).encode())
    assert type(error) is RemoteError
    assert error.detail == "New"
    assert error.fields == {"x": 1, "status": 418, "slug": "news"}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b"\xff", b"{}", b'{"type": 5, "detail": []}',
             b"[" * 100_000]
)  # fmt: skip
def test_error_without_a_problem_document_is_remote(body: bytes) -> None:
    error = error_from(502, body)
    assert type(error) is RemoteError
    assert error.fields["status"] == 502
    assert "502" in error.detail


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ok": 1}', b"\xff", b"[" * 100_000])
def test_answer_of_another_shape_is_remote(body: bytes) -> None:
    with pytest.raises(RemoteError):
        decode_answer(body, Health)


def test_answer_may_have_more_fields() -> None:
    assert decode_answer(b'{"ok": true, "mood": "good"}', Health).ok
