"""Rate limit of a caller: a token bucket that fills steadily and holds the calls of one second."""

import time

from extra_services.errors import Overloaded


class RateLimit:
    """Allows `per_second` calls a second on average, and as many (at least one) at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._left = self._size
        self._at = time.monotonic()

    def take(self) -> None:
        """Count one call.

        Raises:
            Overloaded: It is one too many; the error has the time until the next is allowed.
        """
        now = time.monotonic()
        self._left = min(self._size, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            text = f"more than the {self._per_second:g} calls a second that this token is allowed"
            raise Overloaded(text, (1 - self._left) / self._per_second)
        self._left -= 1
