"""Times as they are written down: UTC, RFC 3339, nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

NS = 1_000_000_000


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(ns: int) -> str:
    """Writes nanoseconds since the epoch, such as ``2026-11-22T17:18:00.123456789Z``."""
    seconds, rest = divmod(ns, NS)
    return f"{_second(seconds)}.{rest:09d}Z"


def parse_rfc3339(text: str) -> int:
    """Reads what `rfc3339` writes back into nanoseconds since the epoch.

    Raises:
        ValueError: The text is not of that form.
    """
    if len(text) != 30 or text[19] != "." or not text[20:29].isdecimal():  # noqa: PLR2004 - the form's own length
        raise ValueError(f"not a UTC time with nanoseconds: {text!r}")
    whole = datetime.strptime(text[:19] + text[29], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return int(whole.timestamp()) * NS + int(text[20:29])
