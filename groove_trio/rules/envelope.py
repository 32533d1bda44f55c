"""Stored keys as bytes: sealed by a key that this machine and this user's seed make together.

The key is scrypt (RFC 7914) of the seed, the hostname, the home directory and the machine id.
Each value is sealed by AES-256-GCM under a fresh 128-bit IV; its additional data are the format,
the parameters and the salt of the key, the provider, the variable and the dates. So a value can't
be moved to another provider, another variable, other parameters or another format: it opens only
as what it was sealed as. There is one format and no other to fall back to.

All records stand in one *sheet*, and there is exactly one way to write it down: what is read is
written again and compared, so that no changed bit can mean nothing. A MAC over the whole, keyed by
the seed alone, shows a dropped, added or exchanged record even where nothing is opened. What none
of it shows is an older sheet put back whole; see the discussion page on the vault.

*Checks* tell which ingredient changed when the key no longer fits. Each is 16 bits of a MAC of one
ingredient, keyed by the seed. Without the seed they are noise; with it they tell 16 bits of each
ingredient, which leaves 112 of a machine id's 128 to be guessed through scrypt. One time in 65,536
a change goes unnamed, and never unnoticed.

Cost: scrypt, half a second and 128 MiB; all else, microseconds. Random bytes are arguments.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from groove_trio.words.agents import ProviderName, VariableName
from groove_trio.words.credentials import MAX_KEY, MAX_KEYS
from groove_trio.words.errors import SealBroken
from groove_trio.words.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = 1
KEY_BYTES = 32
IV_BYTES = 16
SALT_BYTES = 16
"""128 bits, as NIST SP 800-132 asks of a salt."""

TAG_BYTES = 16
_CHECK_BYTES = 2


class Parameters(NamedTuple):
    """What scrypt is run with: cost, block size and parallelisation of RFC 7914, section 2."""

    name: str
    n: int
    r: int
    p: int


OWASP_2023 = Parameters("scrypt-owasp-2023", 2**17, 8, 1)
"""The least that OWASP's Password Storage Cheat Sheet asks of scrypt since 2023. The seed alone
can't be guessed; this is for the day that somebody has it without the machine."""

TESTS_ONLY = Parameters("scrypt-tests-only", 16, 1, 1)
"""The first test vector of RFC 7914, section 12: instant, and no protection. Only code can ask for
it: no variable, no file and no record does."""


class Machine(NamedTuple):
    """What a key is bound to. `machine_id` is empty where the machine has none."""

    hostname: str
    home: str
    machine_id: str


INGREDIENTS: Mapping[str, str] = MappingProxyType(
    {"hostname": "hostname", "home": "home directory", "machine_id": "machine id"}
)
"""The fields of `Machine`, in words."""


class Checks(Struct, frozen=True, kw_only=True, rename="camel"):
    """Sixteen bits each, as four hexadecimal digits."""

    seed: str
    hostname: str
    home: str
    machine_id: str


class Sealed(Struct, frozen=True, kw_only=True):
    """One record: who may have the value, since when, and the value, encrypted with its tag."""

    provider: ProviderName
    variable: VariableName | None
    set: str
    at: str
    iv: Annotated[bytes, Meta(min_length=IV_BYTES, max_length=IV_BYTES)]
    data: Annotated[bytes, Meta(min_length=TAG_BYTES + 1, max_length=TAG_BYTES + MAX_KEY)]


class Sheet(Struct, frozen=True, kw_only=True):
    """All records of a user; `encode` and `decode` are its form in a file."""

    format: int
    kdf: str
    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    checks: Checks
    keys: Annotated[list[Sealed], Meta(max_length=MAX_KEYS)]
    mac: str = ""

    def find(self, provider: str) -> Sealed | None:
        """The record of a provider."""
        return next((each for each in self.keys if each.provider == provider), None)


_decode = msgspec.json.Decoder(Sheet).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def new_sheet(seed: bytes, machine: Machine, parameters: Parameters, salt: bytes) -> Sheet:
    """A sheet without records, for this machine."""
    checks = _checks(seed, machine)
    return Sheet(format=FORMAT, kdf=parameters.name, salt=salt, checks=checks, keys=[])


def with_keys(sheet: Sheet, keys: Sequence[Sealed]) -> Sheet:
    """The sheet with other records, in the order in which they are written."""
    ordered = sorted(keys, key=lambda each: each.provider)
    return msgspec.structs.replace(sheet, keys=ordered, mac="")


# As bytes


def encode(sheet: Sheet, seed: bytes) -> bytes:
    """Writes a sheet down; a MAC of it is its last member."""
    bare = msgspec.structs.replace(sheet, mac="")
    return _encode(msgspec.structs.replace(bare, mac=_mac(bare, seed))) + b"\n"


def decode(data: bytes, seed: bytes, parameters: Parameters) -> Sheet:
    """Reads a sheet, and makes sure that it is what was written with this seed.

    Args:
        data: All of the file.
        seed: The user's seed.
        parameters: The only ones that are taken.

    Raises:
        SealBroken: It is damaged, or was changed, or belongs to another seed, or to another
            version; `reason` says which. Nothing of it is to be used.
    """
    try:
        sheet = _decode(data)
        canonical = _encode(sheet) + b"\n"
    except (ValueError, RecursionError) as error:
        raise broken("it is cut short or damaged") from error
    if sheet.format != FORMAT:
        raise broken(f"its format is {sheet.format}, and this version reads {FORMAT} alone")
    if canonical != data:
        raise broken("it is not written in the one way that there is")
    if sheet.kdf != parameters.name:
        raise broken(f"its parameters are not {parameters.name}")
    names = [each.provider for each in sheet.keys]
    if names != sorted(set(names)):
        raise broken("its records are not in order")
    if sheet.checks.seed != _check(seed, "seed", ""):
        raise broken("it was sealed with another seed than the one beside it")
    expected = _mac(msgspec.structs.replace(sheet, mac=""), seed)
    if not hmac.compare_digest(sheet.mac.encode(), expected.encode()):
        raise broken("it was changed by something else than groove-trio")
    return sheet


def broken(reason: str) -> SealBroken:
    """The refusal of stored keys that are not what was stored."""
    return SealBroken(
        f"credentials.json can't be used: {reason}. Put it back from a copy, or begin anew: "
        "groove-trio credentials remove --all",
        reason=reason,
    )


# The key


def derive_key(seed: bytes, machine: Machine, sheet: Sheet, parameters: Parameters) -> bytes:
    """The key of a sheet on a machine; blocks for half a second, without the interpreter's lock."""
    from cryptography.hazmat.primitives.kdf.scrypt import (  # noqa: PLC0415 - 50 ms that few need
        Scrypt,
    )

    kdf = Scrypt(salt=sheet.salt, length=KEY_BYTES, n=parameters.n, r=parameters.r, p=parameters.p)
    return kdf.derive(_pack("groove-trio key", _subkey(seed, "key"), *machine))


def changed(sheet: Sheet, seed: bytes, machine: Machine) -> list[str]:
    """Which ingredients are not what they were, in words; one in 65,536 is missed."""
    now = _checks(seed, machine)
    return [
        told
        for name, told in INGREDIENTS.items()
        if getattr(sheet.checks, name) != getattr(now, name)
    ]


def seal(  # noqa: PLR0917 - the sheet, the record's own, and what makes it fresh
    key: bytes, sheet: Sheet, record: Sealed, secret: Secret, parameters: Parameters, iv: bytes
) -> Sealed:
    """Seals a value as the record says; `iv` and `data` of the record given are not looked at."""
    aead = _aead(key)
    data = aead.encrypt(iv, secret.reveal().encode(), _bound(sheet, record, parameters))
    return msgspec.structs.replace(record, iv=iv, data=data)


def unseal(key: bytes, sheet: Sheet, record: Sealed, parameters: Parameters) -> Secret:
    """Opens a record.

    Raises:
        SealBroken: It is not what was sealed with this key as this record.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

    try:
        value = _aead(key).decrypt(record.iv, record.data, _bound(sheet, record, parameters))
    except InvalidTag:
        # Without its cause: that has nothing to say, and would be one more thing to look through.
        raise broken(f"the key of {record.provider} is not what was sealed") from None
    return Secret(value.decode())


def blank(provider: str, variable: str | None, set_at: str, sealed_at: str) -> Sealed:
    """A record that nothing is sealed in yet."""
    return Sealed(provider=provider, variable=variable, set=set_at, at=sealed_at, iv=b"", data=b"")


def _aead(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - as above

    return AESGCM(key)


def _bound(sheet: Sheet, record: Sealed, parameters: Parameters) -> bytes:
    variable = () if record.variable is None else (record.variable,)
    return _pack(
        "groove-trio credential",
        str(sheet.format),
        *map(str, parameters),
        sheet.salt,
        record.provider,
        record.set,
        record.at,
        *variable,
    )


# What the seed alone is for


def _checks(seed: bytes, machine: Machine) -> Checks:
    told = {name: _check(seed, name, getattr(machine, name)) for name in INGREDIENTS}
    return Checks(seed=_check(seed, "seed", ""), **told)


def _check(seed: bytes, name: str, value: str) -> str:
    digest = hmac.digest(_subkey(seed, "checks"), _pack(name, value), "sha256")
    return digest[:_CHECK_BYTES].hex()


def _mac(bare: Sheet, seed: bytes) -> str:
    return hmac.new(_subkey(seed, "sheet"), _encode(bare), "sha256").hexdigest()


def _subkey(seed: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose; what HKDF-Expand (RFC 5869) gives for one block."""
    return hmac.digest(seed, b"groove-trio vault 1: " + purpose.encode() + b"\x01", "sha256")


def _pack(*parts: str | bytes) -> bytes:
    """Joins parts so that no two lists of them come to the same bytes."""
    # A home directory may have a name that is not UTF-8.
    encoded = [
        each if isinstance(each, bytes) else each.encode(errors="surrogateescape") for each in parts
    ]
    return b"".join(len(each).to_bytes(4, "big") + each for each in encoded)
