"""The audit log, written: append now, durable soon, and never a lie in the chain.

Appending is one ``write(2)`` into the page cache, in the caller's own step: no await lies
between the number a record gets and its place in the file, so records need no lock and stand
in the order of what they tell. Making them durable is another matter, left to one task that
syncs for everyone who waits (`GroupCommit`), and within 50 ms for records nobody waits for.

When a write fails, what it left stays where it is and is remembered. The next write that
succeeds begins with an ``audit.repair`` record that accounts for it (see `rules.chain`); the
task tries that by itself, so the log recovers when there is room again. When a sync fails, the
kernel has forgotten which pages it lost, so a later good sync proves nothing about them: those
who wait are told, nothing more is taken until a sync works, and the repair names how many
records are in doubt.

Nothing is ever cut, deleted or renamed. A segment that has grown past `SEGMENT_BYTES` is
synced and followed by the next; that sync, once in some 200,000 records, is the one that
holds up the trio thread.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from groove_trio.rules.chain import (
    AUDIT_CLOSE,
    AUDIT_OPEN,
    AUDIT_REPAIR,
    TORN_END,
    digest_of,
    seal,
)
from groove_trio.shell.commit import GroupCommit
from groove_trio.shell.files import check_private, ensure_private_dir, open_private, sync_directory
from groove_trio.shell.segments import (
    MAX_LINE,
    find_tail,
    list_segments,
    read_page,
    segment_path,
    verify_log,
)
from groove_trio.words.clock import rfc3339
from groove_trio.words.errors import AlreadyRunning, AuditUnavailable, UnsafeState
from groove_trio.words.schemas import SYSTEM, AuditEntry, AuditPage

__all__ = ["AuditLog", "open_audit", "verify_log"]

SEGMENT_BYTES = 64 * 2**20
SYNC_LAG_S = 0.03  # records are synced within 50 ms, of which the disk takes some
CLOSE_S = 10.0  # how long the last sync may take


class AuditLog:
    """The log of one project; got from `open_audit`, used from the trio thread.

    Attributes:
        directory: Where the segments are.
        seq: Number of the last record written.
    """

    def __init__(
        self, directory: Path, *, clock: Callable[[], int], segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.directory = directory
        self.seq = 0
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._trouble: str | None = None  # why the last write failed, until one succeeds
        self._void = 0  # whole records at the end that belong to a failed write
        self._unsynced = 0
        self._doubtful = range(0)  # numbers of records that a failed sync may have lost
        self._commit = GroupCommit(self._prepare_sync, SYNC_LAG_S)
        self._failures = 0
        self._full: list[int] = []  # descriptors of segments that are done with
        ensure_private_dir(directory)
        self._directory_fd = _lock(directory)
        try:
            self._open_tail()
        except BaseException:
            os.close(self._directory_fd)
            raise

    def _open_tail(self) -> None:
        segments = list_segments(self.directory)
        for path in segments:
            check_private(path)
        tail = find_tail(segments)
        self.seq, self._head = tail.seq, tail.head
        self._set_torn(tail.torn)
        if tail.torn:
            self._trouble = "the daemon died while it wrote"
        self._open_segment(int(segments[-1].stem) if segments else 1)

    def _open_segment(self, number: int) -> None:
        path = segment_path(self.directory, number)
        descriptor = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            sync_directory(self.directory)
            self._size = os.fstat(descriptor).st_size
        except BaseException:
            os.close(descriptor)
            raise
        self._fd, self._number = descriptor, number

    # What callers use

    @property
    def ok(self) -> bool:
        """Whether the last write and the last sync succeeded."""
        return self._trouble is None and self._commit.error is None

    def append(self, entries: Sequence[AuditEntry]) -> int:
        """Writes records, all or none of them; does not checkpoint and does not sync.

        Returns:
            The number of the last one, for `durable`.

        Raises:
            AuditUnavailable: None of them counts. What of them reached the file is
                disowned by the repair record that comes before the next.
            TypeError: A detail holds something that JSON can't say; nothing was written.
        """
        if self._commit.error is not None:
            raise _unavailable(self._commit.error)
        return self._append(entries)

    async def durable(self, seq: int) -> None:
        """Waits until record `seq` is on disk. Always checkpoints; may be cancelled freely.

        Raises:
            AuditUnavailable: The disk reported an error: the record may be lost.
        """
        try:
            await self._commit.reached(seq)
        except OSError as error:
            raise _unavailable(error) from error
        if seq in self._doubtful:
            raise AuditUnavailable("The audit log could not be synced when this was recorded.")

    async def record(self, entry: AuditEntry) -> int:
        """Appends one record and waits until it is on disk; returns its number.

        Raises:
            AuditUnavailable: As `append` and `durable`.
        """
        seq = self.append([entry])
        await self.durable(seq)
        return seq

    async def read(
        self,
        after: int = 0,
        limit: int = 100,
        agent: str | None = None,
        action: str | None = None,
    ) -> AuditPage:
        """A page of records after number `after`; see `segments.read_page`. Always checkpoints.

        Raises:
            AuditUnavailable: The log can't be read.
        """
        try:
            return await trio.to_thread.run_sync(
                read_page, self.directory, after, limit, agent, action
            )
        except OSError as error:
            raise AuditUnavailable("The audit log cannot be read.") from error

    # Writing

    def _append(self, entries: Sequence[AuditEntry]) -> int:
        repairing = self._trouble is not None
        prefix = TORN_END if self._torn_bytes else b""
        if repairing:
            entries = [self._repair(prefix), *entries]
        lines, head = self._sealed(entries)
        data = prefix + b"".join(lines)
        written, error = self._write(data)
        if error is not None:
            self._account(prefix, lines, data[:written], repairing=repairing)
            self._trouble = _name(error)
            self._commit.changed(self.seq)  # so that the task tries a repair
            raise _unavailable(error) from error
        self.seq += len(lines)
        self._head = head
        if repairing:
            self._trouble, self._void, self._unsynced = None, 0, 0
            self._set_torn(b"")
        self._commit.changed(self.seq)
        return self.seq

    def _sealed(self, entries: Sequence[AuditEntry]) -> tuple[list[bytes], str]:
        now = rfc3339(self._clock())
        seq, head = self.seq, self._head
        lines: list[bytes] = []
        for entry in entries:
            seq += 1
            line, digest = seal(entry, seq, now, head)
            if len(line) > MAX_LINE:
                line, digest = seal(_stub(entry, line), seq, now, head)
            head = digest
            lines.append(line)
        return lines, head

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """One call in all but the rarest case; returns how much was written, what stopped it."""
        written = 0
        try:
            if self._size >= self._segment_bytes and not self._torn_bytes:
                self._roll()
            while written < len(data):
                count = os.write(self._fd, data[written:] if written else data)
                if not count:
                    return written, OSError(errno.EIO, "nothing was written")
                written += count
                self._size += count
        except OSError as error:
            return written, error
        return written, None

    def _roll(self) -> None:
        """Begins the next segment, when all of this one is on disk: no gap after a power cut."""
        full = self._fd
        try:
            os.fdatasync(full)
        except OSError as error:
            self._sync_failed(error)
            raise
        with suppress(OSError, UnsafeState):  # where the next can't be made, this one just grows on
            self._open_segment(self._number + 1)
            self._full.append(full)

    def _repair(self, prefix: bytes) -> AuditEntry:
        torn = self._torn_hash.copy()
        torn.update(prefix)
        detail = {
            "why": self._trouble,
            "torn": self._torn_bytes + len(prefix),
            "sha256": torn.hexdigest(),
            "void": self._void,
            "unsynced": self._unsynced,
        }
        return AuditEntry(actor=SYSTEM, action=AUDIT_REPAIR, detail=detail)

    def _account(self, prefix: bytes, lines: list[bytes], data: bytes, *, repairing: bool) -> None:
        """Takes stock after a write that failed: `data` is what of it reached the file."""
        position, whole = len(prefix), 0
        for line in lines:
            if position + len(line) > len(data):
                break
            position += len(line)
            whole += 1
        if not whole:
            self._torn_bytes += len(data)
            self._torn_hash.update(data)
            return
        self.seq += whole
        self._head = digest_of(lines[whole - 1][:-1])
        self._void = whole - repairing
        if repairing:
            self._unsynced = 0
        self._set_torn(data[position:])

    def _set_torn(self, torn: bytes) -> None:
        self._torn_bytes, self._torn_hash = len(torn), hashlib.sha256(torn)

    # Syncing

    def _prepare_sync(self) -> Callable[[], None]:
        while self._full:  # no sync runs now that could still use them
            os.close(self._full.pop())
        if self._commit.failures != self._failures:
            self._failures = self._commit.failures
            self._sync_failed(self._commit.error)
        if self._trouble is not None and self._commit.error is None:
            with suppress(AuditUnavailable):
                self._append(())
        descriptor = self._fd
        return lambda: os.fdatasync(descriptor)

    def _sync_failed(self, error: OSError | None) -> None:
        self._doubtful = range(self._commit.done + 1, self.seq + 1)
        self._unsynced = len(self._doubtful)
        self._trouble = _name(error)

    # Opening and closing

    def _sync_now(self) -> None:
        os.fdatasync(self._fd)

    def _close(self) -> None:
        with suppress(OSError):
            self._sync_now()
        for descriptor in (*self._full, self._fd, self._directory_fd):
            with suppress(OSError):
                os.close(descriptor)


@asynccontextmanager
async def open_audit(
    directory: Path,
    *,
    clock: Callable[[], int] = time.time_ns,
    segment_bytes: int = SEGMENT_BYTES,
) -> AsyncIterator[AuditLog]:
    """Opens the log of a project for writing, with ``audit.open``; ends it with ``audit.close``.

    Runs the task that syncs in a nursery of its own, so what the block raises comes out in an
    exception group. A torn tail left by a crash is repaired first.

    Args:
        directory: Made, private, if it is not there; its parent must be.
        clock: Nanoseconds since the epoch.
        segment_bytes: The size past which the next segment begins.

    Raises:
        AlreadyRunning: Another process writes this log.
        UnsafeState: A file has the wrong owner, mode or type, or the last line is damaged.
        AuditUnavailable: The log can't be written.
    """
    try:
        log = AuditLog(directory, clock=clock, segment_bytes=segment_bytes)
    except OSError as error:
        raise _unavailable(error) from error
    try:
        await _begin(log)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log._commit.run)  # noqa: SLF001
            try:
                yield log
            finally:
                with suppress(AuditUnavailable):
                    log.append([AuditEntry(actor=SYSTEM, action=AUDIT_CLOSE)])
                nursery.cancel_scope.cancel()
    finally:
        # The last sync: the disk may take long, but not for ever.
        with trio.move_on_after(CLOSE_S, shield=True):
            await trio.to_thread.run_sync(log._close, abandon_on_cancel=True)  # noqa: SLF001


async def _begin(log: AuditLog) -> None:
    seq = log.append([AuditEntry(actor=SYSTEM, action=AUDIT_OPEN, detail={"pid": os.getpid()})])
    try:
        await trio.to_thread.run_sync(log._sync_now)  # noqa: SLF001
    except OSError as error:
        raise _unavailable(error) from error
    log._commit.done = seq  # noqa: SLF001


def _lock(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise AlreadyRunning(f"Another process writes the audit log in {directory}.") from error
    return descriptor


def _stub(entry: AuditEntry, line: bytes) -> AuditEntry:
    """What is recorded in place of a detail too large to be read back."""
    detail = {"bytes": len(line), "sha256": digest_of(line)}
    return AuditEntry(actor=entry.actor, action=entry.action, agent=entry.agent, detail=detail)


def _name(error: OSError | None) -> str:
    return errno.errorcode.get((error and error.errno) or 0, "an error")


def _unavailable(error: OSError) -> AuditUnavailable:
    return AuditUnavailable(
        f"The audit log cannot be written ({_name(error)}); nothing changes until it can.",
        errno=_name(error),
    )
