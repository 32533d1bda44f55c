"""What went wrong, without the groups that nurseries wrap it in."""

from __future__ import annotations

from typing import cast


def innermost(error: BaseException) -> BaseException:
    """The error itself, or the one that a group of one holds, however deep."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return innermost(group.exceptions[0]) if len(group.exceptions) == 1 else group


def kinds(error: BaseException) -> str:
    """The type of an error, or those of all that a group holds: ``OSError, ValueError``."""
    if not isinstance(error, BaseExceptionGroup):
        return type(error).__name__
    group = cast("BaseExceptionGroup[BaseException]", error)
    return ", ".join(dict.fromkeys(kinds(each) for each in group.exceptions))
