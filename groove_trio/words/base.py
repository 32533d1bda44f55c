r"""What the boundary types have in common, and the words that many of them use.

Patterns are anchored with ``\A`` and ``\Z``: ``$`` would also accept a trailing newline.
"""

from __future__ import annotations

from typing import Annotated, NewType, dataclass_transform

import msgspec
from msgspec import Meta, Struct

AgentId = NewType("AgentId", str)
"""Names one agent for ever: eight lower-case hexadecimal digits, such as ``3fa9c21e``."""

MAX_NAME = 64  # characters, as promised; a label of DNS has 63, HOST_NAME_MAX is 64
MAX_PATH = 4096  # characters; PATH_MAX of Linux
MAX_PAGE = 1000  # items in one answer; as many keys as S3 lists at a time

Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH, pattern=r"\A[^\x00]+\Z")]


# Type checkers do not see that msgspec hands `frozen` down to subclasses.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Word(Struct, frozen=True, kw_only=True, rename="camel"):
    """What all boundary types share: frozen, by keyword, camelCase in JSON."""
