"""Who holds which scope, ready to be asked by a thousand holders.

Every pattern that is held is filed three times: under its literal head, its literal tail and the
literal beginning of its last name. Two patterns can only overlap if, in each of the three, the
text of one continues that of the other. The texts that continue a given one are neighbours in
sorted order; those that it continues are its own beginnings, each one look into a dict. The
shortest of the three answers is gone through, and what fits in all three is decided exactly.

Invariant: a pair that is never decided exactly has ends that no path can have both of.

Cost: for scopes that divide a project by directory or by file name, a few candidates for each
pattern. Twenty patterns with stars at both ends meet everything, and cost one exact decision
for each owner.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from groove_trio.rules.shapes import Ends
from groove_trio.words.schemas import MAX_PATTERN

if TYPE_CHECKING:
    from groove_trio.rules.scopes import Scope

Owner = TypeVar("Owner", bound=Hashable)

_LAST = "\U0010ffff"


class _Filed(NamedTuple):
    """One pattern that is held."""

    serial: int
    pattern: int
    ends: Ends


class _Drawer:
    """Patterns filed under one of their texts."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._filed: dict[str, dict[int, _Filed]] = {}

    def add(self, text: str, key: int, filed: _Filed) -> None:
        if text not in self._filed:
            self._filed[text] = {}
            insort(self._texts, text)
        self._filed[text][key] = filed

    def remove(self, text: str, key: int) -> None:
        filed = self._filed[text]
        del filed[key]
        if not filed:
            del self._filed[text]
            del self._texts[bisect_left(self._texts, text)]

    def beginnings(self, text: str) -> list[dict[int, _Filed]]:
        """What is filed under a text that this one continues, or under itself."""
        lengths = range(min(len(text), MAX_PATTERN) + 1)
        return [filed for end in lengths if (filed := self._filed.get(text[:end]))]

    def near(self, text: str) -> list[dict[int, _Filed]]:
        """What is filed under a text that continues this one, or that this one continues."""
        first = bisect_left(self._texts, text)
        after = bisect_left(self._texts, text + _LAST * (MAX_PATTERN + 1 - len(text)))
        more = (self._filed[each] for each in self._texts[first:after] if each != text)
        return [*self.beginnings(text), *more]


class ScopeIndex(Generic[Owner]):
    """Who holds which scope."""

    def __init__(self) -> None:
        self._held: dict[Owner, tuple[int, Scope]] = {}
        self._owners: dict[int, Owner] = {}
        self._serial = 0
        self._heads, self._tails, self._stems = _Drawer(), _Drawer(), _Drawer()

    def add(self, owner: Owner, scope: Scope) -> None:
        """Records a scope in place of the owner's last; the caller has checked for overlap."""
        self.remove(owner)
        self._serial += 1
        self._held[owner] = self._serial, scope
        self._owners[self._serial] = owner
        for key, drawer, text, filed in self._places(self._serial, scope):
            drawer.add(text, key, filed)

    def remove(self, owner: Owner) -> None:
        """Forgets an owner, if known."""
        if owner not in self._held:
            return
        serial, scope = self._held.pop(owner)
        del self._owners[serial]
        for key, drawer, text, _ in self._places(serial, scope):
            drawer.remove(text, key)

    def _places(self, serial: int, scope: Scope) -> Iterator[tuple[int, _Drawer, str, _Filed]]:
        for number, ends in enumerate(scope.ends):
            key, filed = serial * 1_000 + number, _Filed(serial, number, ends)
            yield key, self._heads, ends.head, filed
            yield key, self._tails, ends.tail[::-1], filed
            yield key, self._stems, ends.stem, filed

    def first_overlap(self, scope: Scope) -> tuple[Owner, str] | None:
        """An owner whose scope shares a path with `scope`, and that path."""
        for number, ends in enumerate(scope.ends):
            near: dict[int, list[int]] = {}
            for filed in self._near(ends):
                if ends.fit(filed.ends):
                    near.setdefault(filed.serial, []).append(filed.pattern)
            for serial, patterns in sorted(near.items()):
                owner = self._owners[serial]
                found = scope.meet(number, self._held[owner][1], patterns)
                if found is not None:
                    return owner, found
        return None

    def _near(self, ends: Ends) -> Iterable[_Filed]:
        answers = (
            self._heads.near(ends.head),
            self._tails.near(ends.tail[::-1]),
            self._stems.near(ends.stem),
        )
        fewest = min(answers, key=lambda answer: sum(map(len, answer)))
        return (filed for group in fewest for filed in group.values())

    def owner_of(self, path: str) -> tuple[Owner, str] | None:
        """Who holds a path, by which pattern."""
        serials = {
            filed.serial
            for group in self._heads.beginnings(path)
            for filed in group.values()
            if path.endswith(filed.ends.tail)
        }
        for serial in sorted(serials):
            owner = self._owners[serial]
            if (pattern := self._held[owner][1].matching(path)) is not None:
                return owner, pattern
        return None
