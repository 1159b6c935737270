"""Waiting for services that are restarted under a training run.

A service whose address was given to a run may be restarted by its owner at any time. The client repeats calls
that are safe to repeat, for `services.patience_seconds`. This module covers the rest: streams, which are
opened again for the results that have not arrived, and writes that only their caller knows to be safe to
repeat. A service that the run started itself is not waited for: nobody would start it again.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from extra_client import CancelledError, ExtraError, UnavailableError

logger = logging.getLogger(__name__)

#: Errors of a call to a service that is stopped: before the call began, or by its drain.
STOPPED = (UnavailableError, CancelledError)
#: Failures in a row without any result, after which the request itself is taken to be the cause.
FRUITLESS_ATTEMPTS = 5

Result = TypeVar("Result")


def retried_stream(
    open_stream: Callable[[], Iterator[Result]],
    recover: Callable[[ExtraError], None],
    losses: tuple[type[ExtraError], ...] = STOPPED,
) -> Generator[Result]:
    """Yield the results of a stream, and open it again after an error of the service.

    Args:
        open_stream: Returns a stream of the results that have not been yielded yet.
        recover: Called with the error; returns once the service serves again, or raises.
        losses: The errors after which the stream is opened again.

    Raises:
        ExtraError: Any other error, or one of `losses` after FRUITLESS_ATTEMPTS without a result.
    """
    fruitless = 0
    while True:
        try:
            for result in open_stream():
                fruitless = 0
                yield result
            return
        except losses as error:
            fruitless += 1
            if fruitless == FRUITLESS_ATTEMPTS:
                raise
            logger.warning("asking again: %s", error)
            recover(error)


def retried_call(
    call: Callable[[], Result], wait_for_ready: Callable[[float], None], patience: float
) -> Result:
    """Return the result of a call that is safe to repeat.

    Args:
        call: The call.
        wait_for_ready: Waits up to the given seconds for the service.
        patience: Seconds to wait for the service; 0: the first error is raised.
    """

    def recover(error: ExtraError) -> None:
        if not patience:
            raise error
        wait_for_ready(patience)

    return next(retried_stream(lambda: iter([call()]), recover))
