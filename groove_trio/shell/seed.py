"""The user's seed: 32 random bytes that stored keys and the audit log's seal hang on.

It is made once, and from then on only ever read. Nothing here replaces it, sets it aside or
makes up for a part of it: whatever was sealed with a seed is lost with it, so one that is
damaged, or missing where it must have been, is for its owner to put back.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from groove_trio.shell.files import clear_torn, open_private, write_atomic
from groove_trio.shell.private import ensure_config_directory, locked
from groove_trio.words.errors import UnsafeState, shown

SEED = "seed"
SEED_BYTES = 32
"""256 bits: the promise, and what a key of AES-256 can take in."""

CREDENTIALS = "credentials.json"


def load_seed(directory: Path) -> bytes:
    """The seed of the user whose configuration directory this is; made if there never was one.

    Blocks for the disk: call it in a thread. Any number of processes may call it at once, and
    all get the same.

    Args:
        directory: `private.config_directory()`, or what stands for it; made if missing.

    Returns:
        32 bytes. Derive a key for each purpose (HMAC, HKDF, scrypt); use none of them as one.

    Raises:
        UnsafeState: The seed, or the directory, has the wrong type, owner or mode; the seed is
            not 32 bytes that can be random; or it is missing beside keys sealed with it.
    """
    ensure_config_directory(directory)
    path = directory / SEED
    try:
        return _read(path)
    except FileNotFoundError:
        return _make(directory, path)


def read_seed(directory: Path) -> bytes | None:
    """The seed, or None where there is none; changes nothing on disk.

    Raises:
        UnsafeState: As `load_seed`.
    """
    try:
        return _read(directory / SEED)
    except FileNotFoundError:
        return None


def _make(directory: Path, path: Path) -> bytes:
    try:
        with locked(directory):
            try:
                return _read(path)  # another made it meanwhile
            except FileNotFoundError:
                _check_first(directory)
            clear_torn(path)
            seed = secrets.token_bytes(SEED_BYTES)
            write_atomic(path, seed)
    except OSError as error:
        raise _unsafe(path, f"it can't be made: {error.strerror}", "") from error
    return seed


def _check_first(directory: Path) -> None:
    """A new seed beside what an old one sealed would only hide that the old one is lost."""
    if os.path.lexists(directory / CREDENTIALS):
        raise _unsafe(
            directory / SEED,
            f"it is missing, and {CREDENTIALS} beside it was sealed with it",
            "Put the seed back from a copy, or remove the credentials and set them anew.",
        )


def _read(path: Path) -> bytes:
    try:
        descriptor = open_private(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            seed = file.read(SEED_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unsafe(path, f"it can't be read: {error.strerror}", "") from error
    if len(seed) != SEED_BYTES:
        found = f"more than {SEED_BYTES}" if len(seed) > SEED_BYTES else str(len(seed))
        raise _unsafe(path, f"it holds {found} bytes, not {SEED_BYTES}", _PUT_BACK)
    if len(set(seed)) == 1:  # blocks that a crash or a bad disk left empty
        raise _unsafe(path, f"it holds the same byte {SEED_BYTES} times", _PUT_BACK)
    return seed


_PUT_BACK = (
    "Put it back from a copy. Without it the stored keys can't be read and the audit logs "
    "can't be verified; to begin anew, remove it together with credentials.json."
)


def _unsafe(path: Path, reason: str, way_out: str) -> UnsafeState:
    detail = f"the seed {shown(str(path))} can't be used: {reason}. {way_out}".rstrip()
    return UnsafeState(detail, path=str(path), reason=reason)
