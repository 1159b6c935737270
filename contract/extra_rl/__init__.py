"""The API of extra-rl: `extra_rl.v1` holds the stubs generated from protos/extra_rl/v1."""
