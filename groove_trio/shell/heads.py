"""The head of each audit log, kept outside the log, and what it says about the log.

Whoever can write a log can cut lines from its end, or put an older copy of it in its place, and
what is left is still a sound chain. So the user's own directory holds, for each log, the number
and hash of a record that was on disk::

    ~/.config/groove-trio/heads/<32 hex digits>.json
    {"directory": "/srv/shop/.groove/audit", "log": "5d0c…", "seq": 812, "head": "91be…"}

The file is named by the log's place and not by its id, so that a log that was removed is missed.
It is written only after the log itself was synced: it is never ahead of the disk, and a crash at
any moment raises no false alarm. All of it blocks for the disk: call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from groove_trio.rules.chain import Seal, digest_of
from groove_trio.shell.files import (
    clear_torn,
    ensure_private_dir,
    open_private,
    sync_directory,
    write_atomic,
)
from groove_trio.shell.private import config_directory, ensure_config_directory
from groove_trio.shell.seed import load_seed, read_seed
from groove_trio.shell.segments import (
    Tail,
    check_gaps,
    find_line,
    find_tail,
    list_segments,
    log_of,
)
from groove_trio.verify import MAX_CHECKPOINT, Checkpoint, checkpoint_from, derive_key, verify
from groove_trio.words.audit import Verification
from groove_trio.words.errors import AuditTampered, UnsafeState, shown

HEADS = "heads"
_NAME_DIGITS = 32


class Standing(NamedTuple):
    """How a log stands when it is opened.

    Attributes:
        log: Its id; that of a new log, if there is none.
        seal: Writes its lines.
        tail: Where it ends.
        new: Whether nothing is known of it yet, here or there.
        objection: Why it is not what its checkpoint knows; None if it is.
    """

    log: str
    seal: Seal
    tail: Tail
    new: bool
    objection: AuditTampered | None


def checkpoint_path(config_dir: Path, directory: Path) -> Path:
    """Where the checkpoint of the log in a directory is."""
    place = os.fsencode(os.path.realpath(directory))
    return config_dir / HEADS / f"{hashlib.sha256(place).hexdigest()[:_NAME_DIGITS]}.json"


def read_checkpoint(config_dir: Path, directory: Path) -> Checkpoint | None:
    """What is known of the log in a directory, if anything.

    Raises:
        UnsafeState: The file has the wrong owner, mode or type.
        ValueError: It is damaged.
        OSError: It can't be read.
    """
    try:
        descriptor = open_private(checkpoint_path(config_dir, directory), os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return checkpoint_from(file.read(MAX_CHECKPOINT))


def write_checkpoint(config_dir: Path, directory: Path, known: Checkpoint) -> None:
    """Replaces what is known of a log; its record must be on disk.

    Raises:
        UnsafeState: The directory of heads has the wrong owner, mode or type.
        OSError: What was known before still stands.
    """
    ensure_config_directory(config_dir)
    path = checkpoint_path(config_dir, directory)
    ensure_private_dir(path.parent)
    # A path that is not UTF-8 is only told, and may be told with a mark in its place.
    told = os.fsencode(os.path.realpath(directory)).decode("utf-8", "replace")
    write_atomic(path, msgspec.json.encode({"directory": told, **_plain(known)}) + b"\n")


def look(config_dir: Path, directory: Path, segments: Sequence[Path], *, accept: bool) -> Standing:
    """Sees how a log stands, from its first line, its last, and the one its checkpoint knows.

    Args:
        config_dir: The user's own directory.
        directory: The log.
        segments: Its files.
        accept: Whether an objection is told and not raised.

    Raises:
        AuditTampered: The log is not what its checkpoint knows.
        UnsafeState: The seed, or a file of the log, is not fit for use; or the log's last line was
            changed or is not sealed with this seed.
        OSError: A file can't be read.
    """
    seed = load_seed(config_dir)
    with suppress(OSError):  # litter hinders nobody
        clear_torn(checkpoint_path(config_dir, directory))
    sync_directory(config_dir)  # who made the directory of heads may have died before that
    known, damaged = None, False
    try:
        known = read_checkpoint(config_dir, directory)
    except ValueError:
        damaged = True
    check_gaps(segments)
    log = log_of(segments)
    name = log or (known.log if known is not None and not known.seq else secrets.token_hex(32))
    seal = Seal(derive_key(seed, name))
    tail = find_tail(segments, seal if log else None)
    if not tail.seq:
        tail = tail._replace(head=name)
    problem = "its checkpoint is damaged" if damaged else _objection(directory, log, tail, known)
    objection = _tampered(directory, problem, known, log, tail) if problem else None
    if objection is not None and not accept:
        raise objection
    return Standing(name, seal, tail, known is None and objection is None, objection)


def _objection(
    directory: Path, log: str | None, tail: Tail, known: Checkpoint | None
) -> str | None:
    if known is None:
        if log is None and not tail.torn:
            return None
        return "it has no checkpoint: the project was moved or copied, or the checkpoint removed"
    if log is None and not known.seq:
        return None
    if log is None:
        return f"it is empty, and its checkpoint knows record {known.seq}: it was removed"
    if known.log != log:
        return "it is another log than the one that its checkpoint knows"
    if tail.seq < known.seq:
        return (
            f"it ends with record {tail.seq}, and its checkpoint knows record {known.seq}: "
            "its end was cut, or an older copy was put in its place"
        )
    line = find_line(directory, known.seq) if known.seq else None
    if known.seq and (line is None or digest_of(line) != known.head):
        return f"its record {known.seq} is not the one that its checkpoint knows"
    return None


def _tampered(
    directory: Path, problem: str, known: Checkpoint | None, log: str | None, tail: Tail
) -> AuditTampered:
    return AuditTampered(
        f"The audit log in {shown(str(directory))} is not what was written: {problem}. Put it "
        "back as it was, or, if you know why, `groove-trio audit accept` records that and goes on.",
        problem=problem,
        expected=None if known is None else _plain(known),
        found={"log": log, "seq": tail.seq, "head": tail.head if tail.seq else None},
    )


def _plain(known: Checkpoint) -> dict[str, Any]:
    return {"log": known.log, "seq": known.seq, "head": known.head}


def log_key(directory: Path, config_dir: Path) -> Checkpoint:
    """What it takes to verify a log elsewhere: its key, and its head as the checkpoint has it.

    Raises:
        UnsafeState: There is no log, seed or checkpoint, or one of them is not fit for use.
    """
    seed, log = read_seed(config_dir), log_of(list_segments(directory))
    try:
        known = read_checkpoint(config_dir, directory)
    except ValueError:
        known = None
    if seed is None or log is None or known is None or known.log != log:
        raise UnsafeState("There is no log here with its seed and its checkpoint.")
    return known._replace(key=derive_key(seed, log).hex())


def verify_log(directory: Path, config_dir: Path | None = None) -> Verification:
    """Reads a whole log and checks it; needs no daemon and changes nothing. Takes any bytes.

    The macs are checked where the user has a seed, the head where the log's place has a
    checkpoint; what was found says so. Blocks for the disk: about 200,000 records a second.

    Args:
        directory: The log.
        config_dir: The user's own directory, if not where it belongs.

    Raises:
        UnsafeState: The seed or the checkpoint has the wrong owner, mode or type.
    """
    config_dir = config_dir or config_directory()
    try:
        known = read_checkpoint(config_dir, directory)
    except ValueError:
        problem = "its checkpoint is damaged"
        return Verification(ok=False, records=0, head="", bad_line="1:1", problem=problem)
    return verified(directory, read_seed(config_dir), known)


def verified(directory: Path, seed: bytes | None, known: Checkpoint | None) -> Verification:
    """As `verify_log`, with a seed and a checkpoint from anywhere."""
    found = verify(directory, seed, known)
    return Verification(
        ok=found.ok,
        records=found.records,
        head=found.head,
        log=found.log,
        keyed=found.keyed,
        checkpoint=found.checkpoint,
        accepted=found.accepted,
        bad_line=found.bad_line or None,
        problem=found.problem or None,
    )
