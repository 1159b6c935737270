"""`extra-rl report`: the page of one run, or of several side by side."""

import sys
from pathlib import Path

from extra_rl.config_file import ConfigError


def report(runs: list[Path], output: Path | None) -> int:
    """Write the report of runs and print the page's path.

    Args:
        runs: Run folders.
        output: The page; None: in the run's folder, of several runs in the working directory.

    Returns:
        0, or 1 after an error that is reported.
    """
    from extra_trainer.reports import report as reports

    try:
        print(reports.write_all(runs, output))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
