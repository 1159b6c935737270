"""Trainers with their plug-ins, for the contract tests: each does a step with given rollouts.

Where a trainer cannot be installed on a CPU, its part is recorded here: classes and functions of the same
names and fields, written anew, with the commit at which the interface was read.
"""
