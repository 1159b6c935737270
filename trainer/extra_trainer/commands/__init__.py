"""The `extra-rl` commands of the trainer, one module each: options in, exit code out."""
