"""Generated stubs of package extra_rl.v1. Do not edit: change the protos and run `make protos`."""
