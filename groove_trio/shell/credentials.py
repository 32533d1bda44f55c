"""The file of a user's stored keys: read whole, checked whole, replaced whole.

Whoever changes it holds the lock of the configuration directory from before reading until after
replacing, so of two daemons and a command line none undoes what another did. Readers need no
lock: a rename shows them the old file or the new one.

The file is never made up for. One that is damaged, was changed, has the wrong mode or belongs to
another seed stays where it is, as it is, and every use of it is refused with the reason, until its
owner puts it back or removes it with `discard`. When the last key is removed, so is the file.

All methods block, for the disk and for half a second of scrypt where a value is sealed or opened:
call them in a thread, one at a time, since each run of scrypt takes 128 MiB.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from groove_trio.providers.base import Keyed, Provider
from groove_trio.rules.envelope import (
    IV_BYTES,
    OWASP_2023,
    SALT_BYTES,
    Machine,
    Parameters,
    Sealed,
    Sheet,
    blank,
    broken,
    changed,
    decode,
    derive_key,
    encode,
    new_sheet,
    seal,
    unseal,
    with_keys,
)
from groove_trio.shell.files import clear_torn, open_private, sync_directory, write_atomic
from groove_trio.shell.machine import this_machine
from groove_trio.shell.private import locked
from groove_trio.shell.seed import CREDENTIALS, load_seed, read_seed
from groove_trio.words.clock import rfc3339
from groove_trio.words.credentials import MAX_KEYS, CredentialView
from groove_trio.words.errors import (
    BadRequest,
    MachineChanged,
    OutOfResources,
    UnknownCredential,
    shown,
)
from groove_trio.words.secret import Secret

MAX_FILE = 1 << 20
"""Bytes: room for every key that may be stored, at its longest."""

OLD = {
    "hostname": "--old-hostname",
    "home directory": "--old-home",
    "machine id": "--old-machine-id",
}
"""The option of ``credentials rebind`` for each ingredient."""


@dataclass(slots=True)
class CredentialFile:
    """The stored keys of one user.

    Attributes:
        directory: The configuration directory.
        parameters: What the key is derived with; records that say otherwise are refused.
        machine: Tells what the key is bound to.
    """

    directory: Path
    parameters: Parameters = OWASP_2023
    machine: Callable[[], Machine] = this_machine
    _kept: tuple[object, bytes] | None = field(default=None, init=False, repr=False)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.directory / CREDENTIALS

    def records(self) -> Sequence[Sealed]:
        """The records, by provider; needs no key, and so no particular machine.

        Raises:
            SealBroken, UnsafeState: It is not what was stored, or not private.
        """
        sheet, _ = self._read()
        return () if sheet is None else sheet.keys

    def reveal(self, provider: str) -> tuple[Sealed, Secret]:
        """A provider's key, opened.

        Raises:
            UnknownCredential: None is stored.
            MachineChanged: It was sealed on another machine, or this one has changed.
            SealBroken, UnsafeState: It is not what was stored, or not private.
        """
        sheet, seed = self._read()
        record = None if sheet is None else sheet.find(provider)
        if sheet is None or record is None:
            raise _unknown(provider)
        return record, unseal(self._fitting_key(sheet, seed), sheet, record, self.parameters)

    def store(self, provider: str, variable: str | None, secret: Secret) -> Sealed:
        """Seals a key and keeps it; one that was stored for the same provider is gone then.

        Raises:
            MachineChanged: Others are stored that were sealed on another machine.
            SealBroken, UnsafeState: What is there is not what was stored, or not private.
            BadRequest: There is no room for one more.
            OSError: It could not be written; the old one still stands.
        """
        seed = load_seed(self.directory)  # before the lock, which it takes to make one
        with locked(self.directory):
            sheet = self._read()[0]
            if sheet is None:
                salt = secrets.token_bytes(SALT_BYTES)
                sheet = new_sheet(seed, self.machine(), self.parameters, salt)
            others = [each for each in sheet.keys if each.provider != provider]
            if len(others) >= MAX_KEYS:
                raise BadRequest(f"{MAX_KEYS} keys are stored, which is the most", field="provider")
            key = self._fitting_key(sheet, seed)
            now = rfc3339(time.time_ns())
            record = self._seal(key, sheet, blank(provider, variable, now, now), secret)
            self._write(with_keys(sheet, [*others, record]), seed)
        return record

    def remove(self, provider: str) -> Sealed:
        """Forgets a key; needs no particular machine.

        Raises:
            UnknownCredential: None is stored.
            SealBroken, UnsafeState: What is there is not what was stored, or not private.
            OSError: It could not be written; the old one still stands.
        """
        with locked(self.directory):
            sheet, seed = self._read()
            record = None if sheet is None else sheet.find(provider)
            if sheet is None or record is None:
                raise _unknown(provider)
            left = [each for each in sheet.keys if each is not record]
            if left:
                self._write(with_keys(sheet, left), seed)
            else:
                self._unlink()
        return record

    def discard(self) -> bool:
        """Removes the file whatever it holds; says whether there was one.

        Raises:
            UnsafeState: The directory has the wrong type, owner or mode.
            OSError: It can't be removed.
        """
        with locked(self.directory):
            if not os.path.lexists(self.path):
                return False
            self._unlink()
        return True

    def rebind(self, old: Machine) -> Sequence[Sealed]:
        """Opens every key as on the old machine and seals it for this one, under a fresh salt.

        Raises:
            UnknownCredential: There is nothing to rebind.
            MachineChanged: They were not sealed on the old machine either.
            SealBroken, UnsafeState: They are not what was stored, or not private.
            OSError: It could not be written; the old ones still stand.
        """
        with locked(self.directory):
            sheet, seed = self._read()
            if sheet is None:
                raise UnknownCredential("no key is stored, so there is nothing to rebind")
            if different := changed(sheet, seed, old):
                raise _changed(different, "The old values given do not fit either: they differ in")
            before = self._derive(seed, old, sheet)
            machine = self.machine()
            salt = secrets.token_bytes(SALT_BYTES)
            fresh = new_sheet(seed, machine, self.parameters, salt)
            after = self._derive(seed, machine, fresh)
            now = rfc3339(time.time_ns())
            records = [
                self._seal(
                    after,
                    fresh,
                    blank(each.provider, each.variable, each.set, now),
                    unseal(before, sheet, each, self.parameters),
                )
                for each in sheet.keys
            ]
            self._write(with_keys(fresh, records), seed)
        return records

    # The file

    def _read(self) -> tuple[Sheet | None, bytes]:
        """The sheet and the seed; None and nothing where no key is stored."""
        try:
            descriptor = open_private(self.path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None, b""
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE + 1)
        seed = read_seed(self.directory)
        if seed is None:
            raise broken("the seed beside it is missing")
        if len(data) > MAX_FILE:
            raise broken(f"it is larger than {MAX_FILE} bytes")
        return decode(data, seed, self.parameters), seed

    def _write(self, sheet: Sheet, seed: bytes) -> None:
        self._tidy()
        write_atomic(self.path, encode(sheet, seed))

    def _unlink(self) -> None:
        self._tidy()
        self.path.unlink()
        sync_directory(self.directory)

    def _tidy(self) -> None:
        """Removes what a crash left of a replacement: who holds the lock is the only one at it."""
        clear_torn(self.path)

    # The key

    def _seal(self, key: bytes, sheet: Sheet, record: Sealed, secret: Secret) -> Sealed:
        iv = secrets.token_bytes(IV_BYTES)
        return seal(key, sheet, record, secret, self.parameters, iv)

    def _fitting_key(self, sheet: Sheet, seed: bytes) -> bytes:
        """The key of the sheet, if this is its machine."""
        machine = self.machine()
        if different := changed(sheet, seed, machine):
            raise _changed(different, "They were sealed under another")
        what = (seed, machine, sheet.salt)
        if self._kept is None or self._kept[0] != what:
            self._kept = what, self._derive(seed, machine, sheet)
        return self._kept[1]

    def _derive(self, seed: bytes, machine: Machine, sheet: Sheet) -> bytes:
        try:
            return derive_key(seed, machine, sheet, self.parameters)
        except MemoryError as error:
            raise OutOfResources("128 MiB to derive a key are not there", errno="ENOMEM") from error


def check_variable(provider: Provider | None, variable: str | None) -> None:
    """Refuses a key that a provider would never get; one that nobody knows may be another's.

    Raises:
        BadRequest: The provider takes no key, or not in this variable.
    """
    if provider is None:
        return
    takes: Sequence[str] = provider.credentials if isinstance(provider, Keyed) else ()
    if not takes:
        raise BadRequest(f"the provider {provider.name} takes no key", field="provider")
    if variable is not None and variable not in takes:
        names = " or ".join(takes)
        detail = f"the provider {provider.name} takes a key in {names}, not in {shown(variable)}"
        raise BadRequest(detail, field="variable", takes=list(takes))


def view(record: Sealed, providers: Mapping[str, Provider]) -> CredentialView:
    """What is told of a stored key."""
    provider = providers.get(record.provider)
    return CredentialView(
        provider=record.provider,
        variable=record.variable,
        set=record.set,
        sealed=record.at,
        known=isinstance(provider, Keyed) and bool(provider.credentials),
    )


def _unknown(provider: str) -> UnknownCredential:
    return UnknownCredential(f"no key is stored for {shown(provider)}", provider=provider)


def _changed(different: Iterable[str], how: str) -> MachineChanged:
    """The refusal, which names what changed and not what it is: others may read of it."""
    changed = list(different)
    options = " ".join(f"{OLD[each]} VALUE" for each in changed)
    return MachineChanged(
        f"The stored keys don't open here. {how} {' and '.join(changed)}. With the old value: "
        f"groove-trio credentials rebind {options}; without it: groove-trio credentials remove "
        "--all, and set them anew.",
        changed=changed,
    )
