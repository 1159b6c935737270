"""Rollouts that other trainers logged, as run folders: TRL, verl, OpenRLHF, slime.

`foreign` is what an importer yields, one module for each trainer reads its files, and `run` writes the run
folder. What a log does not hold is missing in the records (None), never 0. Verdicts and entropies come from
the services, if the user names them.
"""
