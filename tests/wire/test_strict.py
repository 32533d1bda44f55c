"""What the strict decoder takes and refuses, with the standard library as the oracle."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from groove_trio.wire import strict
from groove_trio.wire.strict import decode
from groove_trio.words.agents import AgentSpec, Restart
from groove_trio.words.base import Word
from groove_trio.words.errors import BadRequest
from groove_trio.words.knocks import Knock, KnockRequest

SPEC = b'{"role":"a","scope":["src/**"],"prompt":"say \\"hi\\"\\n","restart":{"mode":"always"}}'


class Open(Word):
    known: int = 0


def refusal(data: bytes, schema: type = Open) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(data, schema)
    return caught.value


def test_an_ordinary_body_is_decoded() -> None:
    spec = decode(SPEC, AgentSpec)
    assert spec == AgentSpec(
        role="a", scope=["src/**"], prompt='say "hi"\n', restart=Restart(mode="always")
    )


def test_unknown_fields_are_dropped() -> None:
    assert decode(b'{"known":1,"x":{"y":[1,2,{"z":null}]},"w":"v"}', Open) == Open(known=1)


@pytest.mark.parametrize(
    "name", ["__proto__", "constructor", "prototype", "__class__", "__init__", "____", "__"]
)
@pytest.mark.parametrize(
    "body",
    ["{%s:1}", '{"known":1,%s:1}', '{"x":{%s:1}}', '{"x":[[{"y":{%s :1}}]]}', "{ %s\n: {}}"],
)
def test_a_forbidden_key_is_refused_anywhere(name: str, body: str) -> None:
    for spelled in (
        json.dumps(name),
        '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"',
        '"' + "".join(f"\\u{ord(letter):04X}" for letter in name[:1]) + name[1:] + '"',
        '"' + name[:-1] + f'\\u{ord(name[-1]):04x}"',
    ):
        error = refusal((body % spelled).encode())
        assert name in error.detail
        assert error.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":"__proto__"}',
        b'{"x":["constructor","prototype"]}',
        b'{"__proto":1}',
        b'{"proto__":1}',
        b'{"constructors":1}',
        b'{"a__b":1}',
        b'{"x":"\\"__proto__\\":1"}',
        b'{"x":"\\\\","y":"\\"__proto__\\":"}',
    ],
)
def test_a_forbidden_word_that_is_no_key_is_taken(body: bytes) -> None:
    assert decode(body, Open) == Open()


@pytest.mark.parametrize(
    "body",
    [
        b'{"known":1,"known":2}',
        b'{"known":1, "known" :2}',
        b'{"known":1,"\\u006bnown":2}',
        b'{"x":{"y":1,"y":1}}',
        b'{"x":[{"":1,"":2}]}',
        b'{"x":{"a\\"b":1,"a\\u0022b":1}}',
    ],
)
def test_a_repeated_key_is_refused(body: bytes) -> None:
    assert "twice" in refusal(body).detail


def test_the_same_key_in_two_objects_is_no_repetition() -> None:
    assert decode(b'{"x":{"y":1},"z":[{"y":1},{"y":2}],"y":0}', Open) == Open()


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E+400", "1e0999", "9" * 65]
)
@pytest.mark.parametrize("body", ['{"known":%s}', '{"x":%s}', '{"x":[[1,%s]]}', '{"x":{"y": %s }}'])
def test_a_number_that_is_none_is_refused(number: str, body: str) -> None:
    refusal((body % number).encode())


@pytest.mark.parametrize("number", ["1e308", "-1e-999", "0." + "1" * 62, "9" * 64, "true", "null"])
def test_a_number_that_a_double_can_hold_is_taken(number: str) -> None:
    assert decode(f'{{"x":[{number}]}}'.encode(), Open) == Open()


def test_digits_and_constants_in_strings_are_text() -> None:
    body = json.dumps({"x": ["9" * 5000, "NaN", "1e999", "[" * 5000]}).encode()
    assert decode(body, Open) == Open()


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "\\udc00\\ud800", "a\\ud83d", "\\ud800x"])
@pytest.mark.parametrize("body", ['{"x":"%s"}', '{"%s":1}', '{"x":[{"y":["%s"]}]}'])
def test_half_a_surrogate_pair_is_refused(half: str, body: str) -> None:
    refusal((body % half).encode())


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert decode(b'{"role":"a","prompt":"\\ud83d\\ude00"}', AgentSpec).prompt == "😀"
    assert decode(b'{"role":"a","prompt":"\\\\ud800"}', AgentSpec).prompt == "\\ud800"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"x":1} x',
        b'{"x":1}{"x":1}',
        b'{"x":1}\x00',
        b"{'x':1}",
        b'{"x":1,}',
        b'{"x":01}',
        b'{"x":"\n"}',
        b'{"x":"\\q"}',
        b'{"x":"\xff"}',
        b'{"x":"\xed\xa0\x80"}',
        b'{"\xc3":1}',
        b"\xef\xbb\xbf{}",
        '{"x":1}'.encode("utf-16"),
        '{"x":1}'.encode("utf-16-le"),
        '{"x":1}'.encode("utf-32"),
        b"[]",
        b"null",
        b'"x"',
        b"// comment\n{}",
        b'{"x":"unfinished',
        b'{"x":"\\',
        b'"' * 1_000_000,
        b"\\" * 1_000_000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"]" * 100_000,
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_not_one_json_object_in_utf8_is_refused(body: bytes) -> None:
    refusal(body)


def nested(depth: int) -> bytes:
    return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth_is_bounded() -> None:
    assert decode(nested(strict.MAX_DEPTH), Open) == Open()
    assert "32 levels" in refusal(nested(strict.MAX_DEPTH + 1)).detail
    wide = b'{"x":[' + b",".join([b"[{}]"] * 100) + b"]}"
    assert decode(wide, Open) == Open()


def test_the_number_of_keys_is_bounded() -> None:
    keys = {f"k{index}": 0 for index in range(strict.MAX_KEYS)}
    assert decode(msgspec.json.encode(keys), Open) == Open()
    assert "10000 keys" in refusal(msgspec.json.encode({**keys, "one more": 0})).detail


def test_the_number_of_values_is_bounded() -> None:
    values = [0] * (strict.MAX_VALUES - 1)
    assert decode(msgspec.json.encode({"x": values}), Open) == Open()
    assert "50000 values" in refusal(msgspec.json.encode({"x": [*values, 0]})).detail


@pytest.mark.parametrize(
    ("body", "schema", "field"),
    [
        (b'{"role":"a","scope":["x","y","z",4]}', AgentSpec, "$.scope[3]"),
        (b'{"role":"a","restart":{"maxRestarts":-1}}', AgentSpec, "$.restart.maxRestarts"),
        (b'{"role":"a\\n"}', AgentSpec, "$.role"),
        (b'{"agent":1,"path":"x"}', KnockRequest, "$.agent"),
        (b'{"agent":"x"}', KnockRequest, "$"),
        (b'{"x":{"y":[{"__proto__":1}]}}', Open, "$.x.y[0]"),
        (b'{"x":[1e999]}', Open, "$.x[0]"),
    ],
)
def test_the_refusal_names_the_place(body: bytes, schema: type, field: str) -> None:
    assert refusal(body, schema).fields["field"] == field


def test_the_refusal_is_bounded_and_printable() -> None:
    key = "\x00é\u202e" * 10_000
    error = refusal(json.dumps({"x": {key: {key: {"__proto__": 1}}}}).encode())
    assert len(error.detail) < 500
    assert len(error.fields["field"]) <= strict.MAX_PLACE
    assert error.fields["field"].isprintable()


# The oracle: the standard library's parser, told to be strict by other means.

KEYS = st.sampled_from(["a", "b", "é", "__proto__", "constructor", "__x__", 'q"', "\\", "", "\n"])
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=True), st.just(10**70))
STRINGS = st.one_of(st.text(max_size=5), KEYS, st.sampled_from(["\ud800", ":", '":', "NaN", "{["]))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, STRINGS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(st.tuples(KEYS, inner), max_size=4).map(tuple)
    ),
    max_leaves=12,
)


def written(value: Any, ascii_only: bool, space: str) -> str:
    """A value as JSON; a tuple of pairs is an object, repeated keys and all."""
    if isinstance(value, tuple):
        members = (
            f"{json.dumps(key, ensure_ascii=ascii_only)}{space}:{space}"
            f"{written(member, ascii_only, space)}"
            for key, member in value
        )
        return "{" + f"{space},".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, ascii_only, space) for item in value) + space + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def is_good(value: Any) -> bool:
    if isinstance(value, tuple):
        keys = [key for key, _ in value]
        bad = {"__proto__", "constructor", "__x__"}
        return (
            len(set(keys)) == len(keys)
            and not bad & set(keys)
            and all(is_good(member) for _, member in value)
        )
    if isinstance(value, list):
        return all(map(is_good, value))
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not (isinstance(value, int) and abs(value) >= 10**64)


@given(VALUES, st.booleans(), st.sampled_from(["", " ", "\n\t"]))
def test_exactly_the_unambiguous_documents_are_taken(
    value: Any, ascii_only: bool, space: str
) -> None:
    document = (("x", value),)
    data = written(document, ascii_only, space).encode("utf-8", "surrogatepass")
    if is_good(document):
        assert decode(data, dict) == json.loads(data)
    else:
        refusal(data, dict)


@given(st.one_of(st.binary(max_size=60), st.text('{}[]":,\\u0_e1 ', max_size=40).map(str.encode)))
@example(b'{"":0,"\\\\":0}')
@example(b'{"x":"\\\\"__proto__":1}')
def test_any_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    try:
        value = decode(data, dict)
    except BadRequest:
        return
    assert value == json.loads(data)


@given(st.integers(0, len(SPEC)), st.binary(max_size=4))
def test_a_damaged_body_gives_a_value_or_a_refusal(place: int, damage: bytes) -> None:
    data = SPEC[:place] + damage + SPEC[place + len(damage) :]
    with contextlib.suppress(BadRequest):
        decode(data, AgentSpec)


def test_a_library_type_can_be_decoded_too() -> None:
    assert decode(b'[{"a":1}]', list[dict[str, int]]) == [{"a": 1}]
    refusal(b"{}", Knock)


def test_a_refusal_says_which_field_is_wrong() -> None:
    with pytest.raises(BadRequest, match=r"^role: Expected"):
        decode(b'{"role": "a b"}', AgentSpec)
    with pytest.raises(BadRequest, match=r"^Object missing required field `role`\.$"):
        decode(b"{}", AgentSpec)
