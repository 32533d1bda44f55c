"""A secret shows nothing of itself, whoever asks and however."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import traceback

import msgspec
import pytest

from groove_trio.words.credentials import CredentialRequest, checked_provider
from groove_trio.words.errors import BadRequest
from groove_trio.words.secret import Secret

VALUE = "sk-canary-0123456789"


@dataclasses.dataclass
class Holder:
    secret: Secret


def test_no_way_of_printing_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(VALUE)
    logging.getLogger("groove_trio").warning("got %s %r", secret, [secret])
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{[secret]}",
        repr({"a": [secret]}), repr(Holder(secret)), repr(dataclasses.asdict(Holder(secret))),
        f"{secret:>30}", caplog.text, ascii(secret), repr(copy.deepcopy([secret])),
    ]  # fmt: skip
    assert not any(VALUE in each for each in shown)
    assert secret.reveal() == VALUE


def test_it_is_encoded_by_nobody() -> None:
    secret = Secret(VALUE)
    for encode in (json.dumps, pickle.dumps, msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(TypeError) as caught:
            encode(secret)
        assert VALUE not in str(caught.value)
    assert not hasattr(secret, "__dict__")
    assert VALUE.encode() not in msgspec.json.encode([secret], enc_hook=str)


def test_it_is_not_in_a_traceback_with_its_locals() -> None:
    secret = Secret(VALUE)

    def fail(given: Secret) -> None:
        raise ValueError(f"what came was {given!r}")

    try:
        fail(secret)
    except ValueError as error:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert VALUE not in "".join(told.format())


def test_equal_secrets_are_equal_and_have_no_hash() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret("x")
    assert Secret(VALUE) != VALUE
    with pytest.raises(TypeError):
        hash(Secret(VALUE))
    assert copy.copy(Secret(VALUE)) == Secret(VALUE)


def test_a_request_does_not_show_its_value() -> None:
    request = CredentialRequest(value=VALUE, variable="A")
    assert VALUE not in repr(request)
    assert VALUE not in repr(request.__rich_repr__())
    assert request.secret.reveal() == VALUE


BAD = ["", " ", " x", "x ", "a\nb", "a\tb", "x\n", "a\0b", "\x7f", "ä", "x" * 8193, "\ud800"]


@pytest.mark.parametrize("value", BAD)
def test_what_cannot_be_a_key_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(BadRequest, match="printable ASCII") as caught:
        CredentialRequest.checked(Secret(f"{value}"), None)
    if value.strip():
        assert value not in str(caught.value)


def test_what_can_be_a_key_is_taken() -> None:
    for value in ("x", "a b", "~!", "x" * 8192):
        assert CredentialRequest.checked(Secret(value), "_A1").value == value


@pytest.mark.parametrize("variable", ["", "1A", "A-B", "A=B", "A\n", "x" * 129])
def test_what_cannot_be_a_variable_is_refused(variable: str) -> None:
    with pytest.raises(BadRequest, match="variable's name"):
        CredentialRequest.checked(Secret(VALUE), variable)


@pytest.mark.parametrize("name", ["", "SK-Canary", "a b", "a/b", "..", "x" * 65, "ä"])
def test_what_cannot_be_a_provider_is_refused_without_being_shown(name: str) -> None:
    with pytest.raises(BadRequest, match="provider's name") as caught:
        checked_provider(name)
    if len(name) > 4:
        assert name not in str(caught.value)
