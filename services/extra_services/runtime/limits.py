"""How often a caller may call: a token bucket, filled steadily, that holds what one second brings."""

import time

from extra_services.errors import Overloaded


class RateLimit:
    """At most `per_second` calls a second on average, and as many (at least one) at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._left = self._size
        self._at = time.monotonic()

    def take(self) -> None:
        """Counts one call; Overloaded, with the time until the next is allowed, if that is too many."""
        now = time.monotonic()
        self._left = min(self._size, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            text = f"more than the {self._per_second:g} calls a second that this token is allowed"
            raise Overloaded(text, (1 - self._left) / self._per_second)
        self._left -= 1
