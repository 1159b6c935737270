"""`python -m extra_cli` is `extra-rl`, for callers that know their interpreter rather than their PATH."""

from extra_cli import main

main()
