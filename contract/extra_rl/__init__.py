"""The contract between client, services and trainer.

`v1` holds the stubs generated from protos/extra_rl/v1, `vocabulary` the enums, `wire` numbers as the API
sends them, `groups` the definitions about groups of rollouts, `tokens` how token ids and text belong
together.
"""

#: The release, here alone: packaging, `extra-rl --version` and the servers' GetInfo read it.
__version__ = "0.1.0"
