"""What went wrong, without the groups that nurseries wrap it in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast


def innermost(error: BaseException) -> BaseException:
    """The error itself, or the one that a group of one holds, however deep."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return innermost(group.exceptions[0]) if len(group.exceptions) == 1 else group


def kinds(error: BaseException) -> str:
    """The type of an error, or those of all that a group holds: ``OSError, ValueError``."""
    return ", ".join(dict.fromkeys(type(each).__name__ for each in _lone(error)))


def _lone(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _lone(each)
    else:
        yield error
