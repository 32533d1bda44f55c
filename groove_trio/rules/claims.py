"""Which paths are leased, and by which lease: a set of claims of which no two overlap.

A claim is a text. ``a/b`` claims that name alone; ``a/b/``, with its slash, claims the
directory and everything beneath. Two claims overlap when one is the other, slash or not, or
when one that ends in a slash holds the other.

Because no two overlap, the directory claims in sorted order answer "which of them holds this
path?" by one binary search: every text between ``d/`` and ``d/…`` begins with ``d/`` too, so
if ``d/`` holds the path, no other directory claim can stand between them. Everything beneath a
directory is a run of the sorted claims in the same way. Lookups cost O(log n), changes O(n)
of one memory move.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from groove_trio.words.base import MAX_PATH
from groove_trio.words.leases import LeaseId


class Claims:
    """Claims and their leases; the caller keeps them from overlapping (`touching`)."""

    def __init__(self) -> None:
        self._leases: dict[str, LeaseId] = {}
        self._sorted: list[str] = []
        self._directories: list[str] = []

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[tuple[str, LeaseId]]:
        return iter(self._leases.items())

    def add(self, claim: str, lease: LeaseId) -> None:
        """Records a claim that overlaps none of those there are."""
        self._leases[claim] = lease
        insort(self._sorted, claim)
        if claim.endswith("/"):
            insort(self._directories, claim)

    def remove(self, claim: str) -> None:
        """Forgets a claim.

        Raises:
            KeyError: There is no such claim.
        """
        del self._leases[claim]
        del self._sorted[bisect_left(self._sorted, claim)]
        if claim.endswith("/"):
            del self._directories[bisect_left(self._directories, claim)]

    def holding(self, path: str) -> LeaseId | None:
        """The lease whose claim holds a path (without a slash at its end), if any."""
        if (lease := self._leases.get(path)) is not None or not self._directories:
            return lease
        path += "/"
        index = bisect_right(self._directories, path) - 1
        if index >= 0 and path.startswith(self._directories[index]):
            return self._leases[self._directories[index]]
        return None

    def beneath(self, directory: str) -> Iterator[tuple[str, LeaseId]]:
        """The claims on what lies in a directory (with its slash), and on itself with its slash."""
        index = bisect_left(self._sorted, directory)
        while index < len(self._sorted) and self._sorted[index].startswith(directory):
            yield self._sorted[index], self._leases[self._sorted[index]]
            index += 1

    def touching(self, claim: str) -> set[LeaseId]:
        """The leases of the claims that a new one would overlap."""
        leases: set[LeaseId] = set()
        if (holder := self.holding(claim.removesuffix("/"))) is not None:
            leases.add(holder)
        if claim.endswith("/"):
            leases.update(lease for _, lease in self.beneath(claim))
        return leases


def covers(claim: str, other: str) -> bool:
    """Whether a claim holds all that another does."""
    if claim == other:
        return True
    return claim.endswith("/") and (other.startswith(claim) or f"{other}/" == claim)


def is_claim(text: str) -> bool:
    """Whether a text is a resolved path inside the project, with a slash at its end or not."""
    if len(text) > MAX_PATH or "\0" in text:
        return False
    return not any(name in {"", ".", ".."} for name in text.removesuffix("/").split("/"))


def condensed(claims: Iterable[str]) -> list[str]:
    """The claims in their order, without those that another of them covers."""
    known = list(dict.fromkeys(claims))
    return [
        claim
        for claim in known
        if not any(other != claim and covers(other, claim) for other in known)
    ]
