"""Outlasting services that are away for a while: restarted, one after the other, under a training run.

A service that a run is given the address of belongs to somebody who may restart it at any time. Calls that
may be repeated are repeated by the client, for the run's `services.patience_seconds`. What is here is for the
rest: streams, of which the part that had arrived is kept and the rest asked for again, and writes that only
their caller knows to be safe. A service that the run has started itself nobody would start again.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from extra_client import CancelledError, ExtraError, UnavailableError

logger = logging.getLogger(__name__)

#: What a service that stops fails a call with: gone before it began, or ended by its drain.
AWAY = (UnavailableError, CancelledError)
#: Times in a row that a service may go away without having delivered anything: then it is what it was asked.
FRUITLESS = 5

Result = TypeVar("Result")


def outlasting(
    ask: Callable[[], Iterator[Result]],
    recover: Callable[[ExtraError], None],
    losses: tuple[type[ExtraError], ...] = AWAY,
) -> Iterator[Result]:
    """What `ask` yields; after one of `losses`, once `recover` returns, it is asked for what is missing.

    `recover` gets the error, and raises it where there is no point in going on.
    """
    fruitless = 0
    while True:
        try:
            for result in ask():
                fruitless = 0
                yield result
            return
        except losses as error:
            fruitless += 1
            if fruitless == FRUITLESS:
                raise
            logger.warning("asking again: %s", error)
            recover(error)


def patiently(call: Callable[[], Result], wait_for_ready: Callable[[float], None], patience: float) -> Result:
    """What `call` returns, repeated once its service serves again; it must be safe to repeat."""

    def recover(error: ExtraError) -> None:
        if not patience:
            raise error
        wait_for_ready(patience)

    return next(outlasting(lambda: iter([call()]), recover))
