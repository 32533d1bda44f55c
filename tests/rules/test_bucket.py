"""How often something may happen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.bucket import Bucket


def test_a_burst_is_had_at_once_and_no_more() -> None:
    bucket = Bucket(10, 2, now=100)
    assert all(bucket.take(1, 100) for _ in range(10))
    assert not bucket.take(1, 100)


def test_tokens_come_back_at_the_rate_and_up_to_the_burst() -> None:
    bucket = Bucket(10, 2, now=0)
    assert bucket.take(10, 0)
    assert not bucket.take(2, 0.9)
    assert bucket.take(2, 1)
    assert not bucket.take(11, 1000)
    assert bucket.take(10, 1000)
    assert not bucket.take(1, 1000)


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket(10, 2, now=0)
    assert not bucket.take(11, 0)
    assert bucket.take(10, 0)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5)), max_size=50))
def test_no_course_of_takes_exceeds_the_burst_and_the_rate(course: list[tuple[int, int]]) -> None:
    bucket, now, taken = Bucket(10, 2, now=0), 0, 0
    for count, pause in course:
        now += pause
        taken += count * bucket.take(count, now)
        assert taken <= 10 + 2 * now
