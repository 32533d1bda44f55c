"""Times as they are written down: UTC, RFC 3339, nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

NS = 1_000_000_000
_TIME = re.compile(
    r"\A(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)


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


def instant(text: str) -> int:
    """Reads any time of RFC 3339, section 5.6, into nanoseconds since the epoch.

    Raises:
        ValueError: The text is not of that form, or names no day, hour or minute there is.
    """
    found = _TIME.match(text)
    if found is None:
        raise ValueError("not a time such as 2026-11-22T17:18:00Z")
    day, clock, fraction, zone = found.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{zone.upper()}").timestamp()
    except OverflowError as error:
        raise ValueError("no such time") from error
    return int(whole) * NS + int((fraction or "0").ljust(9, "0"))
