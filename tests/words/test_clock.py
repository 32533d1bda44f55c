"""Times as written down, and read back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.words.clock import NS, parse_rfc3339, rfc3339

YEAR_9999 = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * NS


def test_time_is_written_to_the_nanosecond() -> None:
    assert rfc3339(1_795_367_880_123_456_789) == "2026-11-22T17:18:00.123456789Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000000000Z"


@given(st.integers(0, YEAR_9999))
def test_what_is_written_is_read_back(ns: int) -> None:
    assert parse_rfc3339(rfc3339(ns)) == ns


@given(st.integers(0, YEAR_9999), st.integers(0, YEAR_9999))
def test_times_sort_as_texts(one: int, other: int) -> None:
    assert (one < other) == (rfc3339(one) < rfc3339(other))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-22T17:18:00Z",
        "2026-11-22T17:18:00.123456789+",
        "2026-11-22T17:18:00.12345678aZ",
        "2026-11-22T17:18:00,123456789Z",
        "2026-13-22T17:18:00.123456789Z",
        "2026-11-22T17:18:00.123456789Z\n",
        "2026-11-22 17:18:00.123456789Z",
    ],
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)
