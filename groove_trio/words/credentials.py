"""Stored keys of providers: put in, told of, handed over; a value goes in and never comes back."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from groove_trio.words.agents import ProviderName, VariableName
from groove_trio.words.base import MAX_NAME, Word
from groove_trio.words.errors import BadRequest
from groove_trio.words.secret import HIDDEN, Secret

MAX_KEY = 8192  # characters; the longest tokens in use have some 2,000, a header field takes 8,190
MAX_KEYS = 64  # one a provider; far more than anybody has

KeyText = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_KEY, pattern=r"\A[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z"),
]
"""Printable ASCII with no blank at either end: keys travel in header fields, and what else comes
along when one is pasted is an accident."""

KEY_RULE = f"1 to {MAX_KEY} printable ASCII characters, without a blank at either end"
"""`KeyText` in words, since the pattern tells a person nothing."""


class CredentialRequest(Word):
    """A provider's key, to be stored: the body of ``PUT /api/credentials/{provider}``.

    `variable` is the environment variable it is handed over in; left out, it is the first that
    the provider takes a key in.
    """

    value: KeyText
    variable: VariableName | None = None

    @classmethod
    def checked(cls, value: Secret, variable: str | None) -> CredentialRequest:
        """The request, if it keeps to its schema.

        Raises:
            BadRequest: It does not; the message tells nothing of the value.
        """
        try:
            return msgspec.convert({"value": value.reveal(), "variable": variable}, cls)
        except msgspec.ValidationError as error:
            # Without its cause, though msgspec's messages tell no values either.
            field = "variable" if "$.variable" in str(error) else "value"
            wrong = f"{KEY_RULE}" if field == "value" else "a letter or _, then letters, digits, _"
            raise BadRequest(f"a {_SAID[field]} is {wrong}", field=field) from None

    @property
    def secret(self) -> Secret:
        """The value, so that it can be carried on."""
        return Secret(self.value)

    def __repr__(self) -> str:
        return f"CredentialRequest(value={HIDDEN}, variable={self.variable!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:  # msgspec's own would tell the value
        return [("value", HIDDEN), ("variable", self.variable)]


_SAID = {"value": "key", "variable": "variable's name"}


class CredentialView(Word):
    """A stored key told: whose it is and since when, and nothing of its value.

    `sealed` is when it was last encrypted: a rebind does that anew and leaves `set` as it is.
    `known` says whether a provider takes a key by this name: one of this daemon's, or without a
    daemon, a built-in one.
    """

    provider: ProviderName
    variable: VariableName | None
    set: str
    sealed: str
    known: bool


def checked_provider(name: str) -> str:
    """The name of a provider, if it can be one.

    Raises:
        BadRequest: It can't; the message doesn't show it, for it may be a key in the wrong place.
    """
    try:
        return msgspec.convert(name, ProviderName)
    except msgspec.ValidationError:
        rule = f"1 to {MAX_NAME} lower-case letters, digits, - and _"
        raise BadRequest(f"a provider's name is {rule}", field="provider") from None
