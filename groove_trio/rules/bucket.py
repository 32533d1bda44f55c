"""How often something may happen: a token bucket, as nghttp2 and nginx's ``limit_req`` have one.

What happens takes tokens; they come back at a steady rate, up to a burst. Somebody who was quiet
may hurry for a while, and nobody hurries for long. Constant cost and three numbers of state.
"""

from __future__ import annotations


class Bucket:
    """Tokens of one peer.

    Args:
        burst: Tokens it begins with and never exceeds.
        rate: Tokens that come back in a second.
        now: Seconds on the clock that `take` goes by.
    """

    __slots__ = ("_burst", "_filled", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._filled = now

    def take(self, count: float, now: float) -> bool:
        """Takes so many tokens if they are there; whether they were."""
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate)
        self._filled = now
        if count > self._left:
            return False
        self._left -= count
        return True
