"""What the client sees of each fault of each service: asserted by the fault tests, shown by docs/faults.md.

`python tests/fault_table.py` writes the table into that page; a test says when they differ.
"""

from dataclasses import dataclass
from pathlib import Path

from extra_client import (
    DeadlineExceededError,
    ExtraError,
    FailedPreconditionError,
    UnavailableError,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "faults.md"
BEGIN, END = "<!-- table: made by tests/fault_table.py -->", "<!-- end of the table -->"

#: Services by their names in the table.
GENERATION, VERIFICATION = "generation", "verification"
SQLITE, REDIS = "novelty on SQLite", "novelty on Redis"
SERVICES = (GENERATION, VERIFICATION, SQLITE, REDIS)
THE_REDIS = "Redis under novelty"


@dataclass(frozen=True)
class Row:
    """One fault of some services."""

    fault: str
    services: tuple[str, ...]
    #: What calls raise meanwhile; None: they succeed.
    error: type[ExtraError] | None
    #: More about that, what is lost, how it comes back.
    sees: str
    lost: str
    back: str
    test: str


def expected(fault: str, service: str) -> type[ExtraError]:
    """What calls to the service raise under the fault."""
    (error,) = (row.error for row in ROWS if row.fault == fault and service in row.services)
    assert error is not None, f"{service} {fault}: calls succeed"
    return error


NOTHING = "nothing"
ROWS = (
    Row("killed -9", SERVICES, UnavailableError, "", NOTHING, "", "test_killed"),
    Row("stopped", SERVICES, DeadlineExceededError, "", NOTHING, "", "test_stopped"),
    Row("partitioned", SERVICES, DeadlineExceededError, "", NOTHING, "", "test_partitioned"),
    Row("slowed", SERVICES, DeadlineExceededError, "", NOTHING, "", "test_slowed"),
    Row("restarted", SERVICES, None, "", NOTHING, "", "test_restarted"),
    Row(
        "out of disk", (GENERATION,), FailedPreconditionError, "", NOTHING, "", "test_out_of_disk_generation"
    ),
    Row("out of disk", (SQLITE,), UnavailableError, "", NOTHING, "", "test_out_of_disk"),
    Row(
        "store damaged at the tail",
        (GENERATION,),
        FailedPreconditionError,
        "",
        NOTHING,
        "",
        "test_out_of_disk_generation",
    ),
    *[
        Row(f, (THE_REDIS,), UnavailableError, "", "", "", "")
        for f in ("killed -9", "stopped", "partitioned", "out of disk", "failed over to a replica")
    ],
    Row("slowed", (THE_REDIS,), DeadlineExceededError, "", "", "", ""),
)
