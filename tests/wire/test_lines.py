"""Lines out of a stream: the same however it is chopped, in bounded memory."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.wire.lines import MAX_LINE, MIN_LINE, LineSplitter

STREAMS = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"\x00", b"\xff", b"\xc3", b"\x80"]),
        st.sampled_from(["é", "€", "😀", "\u2028", "\x0c", "\x85", "\ufeff"]).map(str.encode),
        st.binary(max_size=12),
    ),
    max_size=40,
).map(b"".join)


def split(stream: bytes, cuts: list[int], max_line: int) -> list[tuple[str, bool]]:
    splitter = LineSplitter(max_line)
    places = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    lines = []
    for start, end in itertools.pairwise(places):
        lines += splitter.feed(stream[start:end])
    return lines + splitter.finish()


def oracle(stream: bytes) -> list[str]:
    """What the lines are when none is too long, by other means."""
    *ended, rest = stream.split(b"\n")
    lines = [line[:-1] if line[-1:] == b"\r" else line for line in ended]
    lines += [rest] if rest else []
    return [line.decode("utf-8", "replace") for line in lines]


@given(STREAMS, st.lists(st.integers(0, 400)), st.integers(MIN_LINE, 40))
def test_chopping_makes_no_difference(stream: bytes, cuts: list[int], max_line: int) -> None:
    assert split(stream, cuts, max_line) == split(stream, [], max_line)


@given(STREAMS, st.integers(MIN_LINE, 40))
def test_byte_by_byte_is_the_same_as_at_once(stream: bytes, max_line: int) -> None:
    assert split(stream, list(range(len(stream))), max_line) == split(stream, [], max_line)


@given(STREAMS, st.integers(MIN_LINE, 40))
def test_pieces_join_to_the_lines_and_nothing_is_lost(stream: bytes, max_line: int) -> None:
    whole: list[str] = [""]
    for text, partial in split(stream, [], max_line):
        whole[-1] += text
        if not partial:
            whole.append("")
    assert whole == [*oracle(stream), ""]


@given(st.text(alphabet="aé€😀", min_size=1, max_size=200), st.integers(MIN_LINE, 40))
def test_pieces_are_cut_between_characters_and_keep_the_limit(text: str, max_line: int) -> None:
    lines = split(text.encode() + b"\n", [], max_line)
    assert "".join(piece for piece, _ in lines) == text
    sizes = [len(piece.encode()) for piece, _ in lines]
    assert all(size <= max_line for size in sizes)
    assert all(size > max_line - 4 for size in sizes[:-1])
    assert [partial for _, partial in lines] == [True] * (len(lines) - 1) + [False]


def test_a_line_of_the_limit_is_whole_and_one_beyond_is_cut() -> None:
    for end in (b"\n", b"\r\n"):
        assert split(b"x" * 10 + end, [], 10) == [("x" * 10, False)]
        assert split(b"x" * 11 + end, [], 10) == [("x" * 10, True), ("x", False)]


def test_other_separators_do_not_end_a_line() -> None:
    text = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\rh"
    assert LineSplitter().feed(text.encode() + b"\n") == [(text, False)]


def test_only_one_carriage_return_is_dropped() -> None:
    assert LineSplitter().feed(b"a\r\r\n\r\n") == [("a\r", False), ("", False)]


def test_an_unended_last_line_is_given_at_the_end() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == [("a", False)]
    assert splitter.finish() == [("b", False)]
    assert splitter.finish() == []


def test_a_stream_without_a_line_feed_keeps_memory_bounded() -> None:
    splitter = LineSplitter()
    size = 0
    for _ in range(1024):
        size += sum(len(text) for text, _ in splitter.feed(b"x" * 65536))
        assert splitter.held <= MAX_LINE + 1
    size += sum(len(text) for text, _ in splitter.finish())
    assert size == 1024 * 65536


def test_a_limit_too_small_for_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        LineSplitter(MIN_LINE - 1)
