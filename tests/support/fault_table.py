"""The table of faults: what a client sees of each, what is lost, how the service comes back.

The fault tests assert the table, and docs/faults.md shows it. `python tests/support/fault_table.py` writes it
into that page; `tests/unit/test_fault_table.py` fails when they differ.
"""

from dataclasses import dataclass
from pathlib import Path

from extra_client import (
    DeadlineExceededError,
    ExtraError,
    FailedPreconditionError,
    UnavailableError,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- table: made by tests/support/fault_table.py -->", "<!-- end of the table -->"

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
    #: The error that calls raise meanwhile; None: they succeed.
    error: type[ExtraError] | None
    #: Details of what the client sees; what is lost; how the service comes back.
    sees: str
    lost: str
    back: str
    #: The file, in tests/faults, and the function.
    test: str


NOTHING = "nothing acknowledged"
WEIGHTS = (
    "weights delivered since the start: every rollout names its policy version, so the trainer delivers again"
)
SERVICE_TESTS, REDIS_TESTS = "test_services_under_faults", "test_redis_under_faults"
ROWS = (
    Row(
        "killed -9",
        (GENERATION,),
        UnavailableError,
        "after 3.5 s of retries (`patience`): no generation service answers at ..., start one",
        WEIGHTS,
        "when it is started again; the same client continues",
        f"{SERVICE_TESTS}.test_killed",
    ),
    Row(
        "killed -9",
        (VERIFICATION, SQLITE, REDIS),
        UnavailableError,
        "the same; a write in progress is sent again under its key and counts once",
        NOTHING,
        "when it is started again; the same client continues",
        f"{SERVICE_TESTS}.test_killed",
    ),
    Row(
        "stopped (SIGSTOP)",
        SERVICES,
        DeadlineExceededError,
        "at the call's deadline: took longer than its deadline, see what keeps the server",
        NOTHING,
        "by itself with SIGCONT",
        f"{SERVICE_TESTS}.test_stopped",
    ),
    Row(
        "partitioned",
        SERVICES,
        DeadlineExceededError,
        "at the call's deadline; a connection that stays dead is closed after 80 s",
        NOTHING,
        "by itself when the network is back",
        f"{SERVICE_TESTS}.test_partitioned",
    ),
    Row(
        "slowed (0.2 s each way, 200 kB/s)",
        SERVICES,
        DeadlineExceededError,
        "where the deadline is too short for the way; else right answers, later",
        NOTHING,
        "-",
        f"{SERVICE_TESTS}.test_slowed",
    ),
    Row(
        "restarted (SIGTERM, start)",
        SERVICES,
        None,
        "nothing, if `patience` is longer than the restart: running calls end, others are sent again",
        f"{NOTHING}; generation: weights, as above",
        "by itself",
        f"{SERVICE_TESTS}.test_restarted",
    ),
    Row(
        "out of disk, weights and log",
        (GENERATION,),
        FailedPreconditionError,
        "UpdateWeights says that the half-written folder cannot be loaded; rollouts continue",
        "log lines",
        "when weights are delivered again with enough room",
        f"{SERVICE_TESTS}.test_out_of_disk_generation",
    ),
    Row(
        "out of disk, log and temporary files",
        (VERIFICATION,),
        None,
        "nothing; workers that die are replaced",
        "log lines",
        "by itself",
        f"{SERVICE_TESTS}.test_out_of_disk_verification",
    ),
    Row(
        "out of disk, store and log",
        (SQLITE,),
        UnavailableError,
        "on writes: the store cannot be used now, is the disk full? Reads are answered",
        f"{NOTHING}; log lines",
        "by itself when there is room",
        f"{SERVICE_TESTS}.test_out_of_disk_novelty",
    ),
    Row(
        "weights damaged at the tail",
        (GENERATION,),
        FailedPreconditionError,
        "UpdateWeights says that they cannot be loaded; rollouts continue with the previous weights",
        "nothing",
        "when they are delivered again",
        f"{SERVICE_TESTS}.test_weights_damaged_at_their_tail",
    ),
    Row(
        "store torn at the tail (garbage after log and database)",
        (SQLITE,),
        None,
        "nothing: checksums reject a write that a crash left unfinished",
        NOTHING,
        "by itself at the start",
        f"{SERVICE_TESTS}.test_store_damaged_at_its_tail",
    ),
    Row(
        "store cut to half its length",
        (SQLITE,),
        FailedPreconditionError,
        "the store is damaged, put a backup in its place; a server started on it ends with this message",
        "what the disk has lost; the server reports every such loss",
        "from a backup of the folder, or an export",
        f"{SERVICE_TESTS}.test_store_damaged_at_its_tail",
    ),
    Row(
        "clock jumped (a day on, a day back)",
        SERVICES,
        None,
        "nothing",
        NOTHING,
        "-",
        f"{SERVICE_TESTS}.test_clock_jumped",
    ),
    Row(
        "killed -9",
        (THE_REDIS,),
        UnavailableError,
        "the memory's Redis does not serve",
        NOTHING,
        "by itself when Redis is started; the novelty server stays up",
        f"{REDIS_TESTS}.test_killed",
    ),
    Row(
        "stopped (SIGSTOP)",
        (THE_REDIS,),
        UnavailableError,
        "the memory's Redis does not serve, after the `socket_timeout` of the URL (120 s unless given), or"
        " the call's deadline",
        NOTHING,
        "by itself",
        f"{REDIS_TESTS}.test_stopped",
    ),
    Row(
        "partitioned",
        (THE_REDIS,),
        UnavailableError,
        "the same",
        NOTHING,
        "by itself",
        f"{REDIS_TESTS}.test_partitioned",
    ),
    Row(
        "slowed (0.2 s each way, 200 kB/s)",
        (THE_REDIS,),
        DeadlineExceededError,
        "where the deadline is too short for the way; else right answers, later",
        NOTHING,
        "-",
        f"{REDIS_TESTS}.test_slowed",
    ),
    Row(
        "restarted (SIGTERM, start)",
        (THE_REDIS,),
        None,
        "nothing",
        NOTHING,
        "by itself",
        f"{REDIS_TESTS}.test_restarted",
    ),
    Row(
        "out of disk",
        (THE_REDIS,),
        UnavailableError,
        "the memory's Redis does not serve: it ends when it cannot write its log",
        NOTHING,
        "when Redis is started with enough room",
        f"{REDIS_TESTS}.test_out_of_disk",
    ),
    Row(
        "store torn at the tail (half a command)",
        (THE_REDIS,),
        None,
        "nothing: Redis removes the half command",
        NOTHING,
        "by itself at the start",
        f"{REDIS_TESTS}.test_store_damaged_at_its_tail",
    ),
    Row(
        "failed over to a replica",
        (THE_REDIS,),
        UnavailableError,
        "for the seconds until Sentinel has named the new primary; `patience` covers a part of them",
        f"{NOTHING} with `redis_replicas` 1 or more; with 0, what Redis had not replicated yet",
        "by itself; the old primary follows the new one",
        f"{REDIS_TESTS}.test_failed_over_to_a_replica",
    ),
    Row(
        "replicas gone",
        (THE_REDIS,),
        UnavailableError,
        "with `redis_replicas`: Redis has the write, but too few of its replicas, send it again",
        NOTHING,
        "by itself when they are back",
        f"{REDIS_TESTS}.test_a_write_that_no_replica_has_is_not_acknowledged",
    ),
)


def expected(fault: str, service: str) -> type[ExtraError]:
    """Return the error that calls to `service` raise under the fault whose name begins with `fault`."""
    (error,) = (row.error for row in ROWS if row.fault.startswith(fault) and service in row.services)
    assert error is not None, f"{service} {fault}: calls succeed"
    return error


def as_markdown() -> str:
    """Return the table in Markdown."""
    lines = [
        "| fault | service | the client sees | lost | comes back | test |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        services = "all" if row.services == SERVICES else ", ".join(row.services)
        sees = f"{row.error.__name__}: {row.sees}" if row.error else row.sees
        lines.append(f"| {row.fault} | {services} | {sees} | {row.lost} | {row.back} | `{row.test}` |")
    return "\n".join(lines)


def on_page() -> str:
    """Return the table that the page contains."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{as_markdown()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
