"""Sealed keys: they open as what they were sealed as, or not at all."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.envelope import (
    OWASP_2023,
    TESTS_ONLY,
    Machine,
    Parameters,
    Sealed,
    Sheet,
    blank,
    changed,
    decode,
    derive_key,
    encode,
    new_sheet,
    seal,
    unseal,
    with_keys,
)
from groove_trio.words.errors import SealBroken
from groove_trio.words.secret import Secret

SEED = bytes(range(32))
MACHINE = Machine("laptop", "/home/ada", "0123456789abcdef0123456789abcdef")
VALUES = {"claude": "sk-ant-0000-1111", "codex": "sk-2222-3333", "gemini": "x"}
THEN = "2026-11-22T17:18:00.123456789Z"


def filled() -> tuple[Sheet, bytes]:
    sheet = new_sheet(SEED, MACHINE, TESTS_ONLY, b"s" * 16)
    key = derive_key(SEED, MACHINE, sheet, TESTS_ONLY)
    keys = [
        seal(key, sheet, blank(name, None, THEN, THEN), Secret(text), TESTS_ONLY, bytes([iv] * 16))
        for iv, (name, text) in enumerate(VALUES.items())
    ]
    return with_keys(sheet, keys), key


SHEET, KEY = filled()
DATA = encode(SHEET, SEED)


def opened(data: bytes, seed: bytes = SEED, machine: Machine = MACHINE) -> dict[str, str]:
    """All that can be got out of a file."""
    sheet = decode(data, seed, TESTS_ONLY)
    key = derive_key(seed, machine, sheet, TESTS_ONLY)
    return {each.provider: unseal(key, sheet, each, TESTS_ONLY).reveal() for each in sheet.keys}


def test_what_was_sealed_comes_back() -> None:
    assert opened(DATA) == VALUES
    for text in VALUES.values():
        if len(text) > 1:
            assert text.encode() not in DATA
            assert base64.b64encode(text.encode()) not in DATA


@given(st.integers(0, len(DATA) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealBroken):
        decode(bytes(damaged), SEED, TESTS_ONLY)


def test_every_flipped_bit_is_refused() -> None:
    for bit in range(len(DATA) * 8):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            decode(bytes(damaged), SEED, TESTS_ONLY)


@given(st.data())
def test_a_flipped_bit_of_a_record_does_not_open(data: st.DataObject) -> None:
    """The record itself holds, too, without the MAC around it."""
    record = data.draw(st.sampled_from(SHEET.keys))
    bit = data.draw(st.integers(0, (len(record.iv) + len(record.data)) * 8 - 1))
    both = bytearray(record.iv + record.data)
    both[bit // 8] ^= 1 << bit % 8
    iv, rest = bytes(both[:16]), bytes(both[16:])
    with pytest.raises(SealBroken):
        unseal(KEY, SHEET, changed_record(record, iv=iv, data=rest), TESTS_ONLY)


def changed_record(record: Sealed, **fields: Any) -> Sealed:
    return msgspec.structs.replace(record, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": "codex"},
        {"variable": "OPENAI_API_KEY"},
        {"variable": ""},
        {"set": "2026-11-22T17:18:00.123456788Z"},
        {"at": "2026-11-22T17:18:00.123456788Z"},
    ],
)
def test_a_record_opens_as_itself_only(fields: dict[str, str]) -> None:
    record = SHEET.find("claude")
    assert record is not None
    with pytest.raises(SealBroken):
        unseal(KEY, SHEET, changed_record(record, **fields), TESTS_ONLY)


def test_a_record_opens_under_its_own_format_parameters_and_salt_only() -> None:
    record = SHEET.find("claude")
    assert record is not None
    for sheet in (
        msgspec.structs.replace(SHEET, format=0),
        msgspec.structs.replace(SHEET, salt=b"t" * 16),
    ):
        with pytest.raises(SealBroken):
            unseal(KEY, sheet, record, TESTS_ONLY)
    for parameters in (
        TESTS_ONLY._replace(name="scrypt-owasp-2023"),
        TESTS_ONLY._replace(n=32),
        TESTS_ONLY._replace(r=2),
        TESTS_ONLY._replace(p=2),
    ):
        with pytest.raises(SealBroken):
            unseal(KEY, SHEET, record, parameters)


def rewritten(seed: bytes = SEED, **members: Any) -> bytes:
    """A file as somebody who has the seed would write it."""
    return encode(msgspec.structs.replace(SHEET, **members), seed)


def test_no_other_format_and_no_other_parameters_are_read() -> None:
    with pytest.raises(SealBroken, match="format is 0"):
        decode(rewritten(format=0), SEED, TESTS_ONLY)
    with pytest.raises(SealBroken, match="format is 2"):
        decode(rewritten(format=2), SEED, TESTS_ONLY)
    for name in ("scrypt-owasp-2023", "", "none"):
        with pytest.raises(SealBroken, match="parameters"):
            decode(rewritten(kdf=name), SEED, TESTS_ONLY)
    # What a test wrote is nothing to a daemon.
    with pytest.raises(SealBroken, match="parameters are not scrypt-owasp-2023"):
        decode(DATA, SEED, OWASP_2023)


def test_records_are_written_in_one_order_and_once() -> None:
    for keys in (list(reversed(SHEET.keys)), [*SHEET.keys, SHEET.keys[-1]]):
        with pytest.raises(SealBroken, match="order"):
            decode(rewritten(keys=keys), SEED, TESTS_ONLY)


@pytest.mark.parametrize("what", ["dropped", "added", "exchanged", "checks"])
def test_whatever_is_changed_without_the_seed_shows(what: str) -> None:
    told = json.loads(DATA)
    match what:
        case "dropped":
            del told["keys"][1]
        case "added":
            told["keys"].append({**told["keys"][2], "provider": "zzz"})
        case "exchanged":
            first, second = told["keys"][0], told["keys"][1]
            first["data"], second["data"] = second["data"], first["data"]
            first["iv"], second["iv"] = second["iv"], first["iv"]
        case _:
            told["checks"]["hostname"] = "0000"
    with pytest.raises(SealBroken, match="changed by something else"):
        decode(json.dumps(told, separators=(",", ":")).encode() + b"\n", SEED, TESTS_ONLY)


def test_every_prefix_is_refused() -> None:
    for length in range(len(DATA)):
        with pytest.raises(SealBroken):
            decode(DATA[:length], SEED, TESTS_ONLY)
    for more in (b"\n", b" ", b"\0", DATA):
        with pytest.raises(SealBroken):
            decode(DATA + more, SEED, TESTS_ONLY)


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_nothing_else_is_taken_for_a_sheet(data: bytes) -> None:
    with pytest.raises(SealBroken):
        decode(data, SEED, TESTS_ONLY)


def test_deep_json_is_refused() -> None:
    with pytest.raises(SealBroken):
        decode(b"[" * 100_000, SEED, TESTS_ONLY)


def test_another_seed_is_told_from_tampering() -> None:
    with pytest.raises(SealBroken, match="another seed"):
        decode(DATA, bytes(32), TESTS_ONLY)


@pytest.mark.parametrize(
    ("field", "told"),
    [("hostname", "hostname"), ("home", "home directory"), ("machine_id", "machine id")],
)
def test_each_ingredient_counts_and_is_named(field: str, told: str) -> None:
    other = MACHINE._replace(**{field: "other"})
    assert changed(SHEET, SEED, other) == [told]
    assert changed(SHEET, SEED, MACHINE) == []
    assert derive_key(SEED, other, SHEET, TESTS_ONLY) != KEY
    with pytest.raises(SealBroken):
        opened(DATA, machine=other)


def test_the_seed_and_the_salt_count() -> None:
    assert derive_key(bytes(32), MACHINE, SHEET, TESTS_ONLY) != KEY
    salted = msgspec.structs.replace(SHEET, salt=b"t" * 16)
    assert derive_key(SEED, MACHINE, salted, TESTS_ONLY) != KEY


def test_what_moves_between_ingredients_is_another_key() -> None:
    one = Machine("ab", "c", "")
    two = Machine("a", "bc", "")
    three = Machine("a", "b", "c")
    keys = {derive_key(SEED, each, SHEET, TESTS_ONLY) for each in (one, two, three)}
    assert len(keys) == 3


def test_a_home_that_is_not_utf8_has_a_key() -> None:
    odd = MACHINE._replace(home="/home/\udcff")
    assert len(derive_key(SEED, odd, SHEET, TESTS_ONLY)) == 32


def test_the_parameters_are_those_that_their_names_tell() -> None:
    assert Parameters("scrypt-owasp-2023", 131_072, 8, 1) == OWASP_2023
    assert Parameters("scrypt-tests-only", 16, 1, 1) == TESTS_ONLY


def test_aead_is_that_of_the_standard() -> None:
    """Against the library called by hand: AES-256-GCM, 128-bit IV, tag at the end."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    record = SHEET.find("codex")
    assert record is not None
    assert len(record.iv) == 16
    decryptor = Cipher(algorithms.AES256(KEY), modes.GCM(record.iv, record.data[-16:])).decryptor()
    parts = [
        b"groove-trio credential", b"1", b"scrypt-tests-only", b"16", b"1", b"1", b"s" * 16,
        b"codex", THEN.encode(), THEN.encode(),
    ]  # fmt: skip
    decryptor.authenticate_additional_data(
        b"".join(len(each).to_bytes(4, "big") + each for each in parts)
    )
    text = decryptor.update(record.data[:-16]) + decryptor.finalize()
    assert text.decode() == VALUES["codex"]
