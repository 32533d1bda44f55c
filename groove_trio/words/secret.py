"""A value that is carried and never shown."""

from __future__ import annotations

import hmac
from typing import NoReturn, final

HIDDEN = "<secret>"


@final
class Secret:
    """A provider's key on its way from a prompt or a file to the process that needs it.

    Whatever would print, format, pickle or encode it gets `HIDDEN` or a TypeError, so a secret that
    strays into a log line, a traceback's locals or an answer shows nothing. Python's strings can't
    be wiped: the value stays in memory until it is collected, and whoever can read this process's
    memory can read it there.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; to be asked for in the step that hands it on, and kept nowhere."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret can't be pickled")
