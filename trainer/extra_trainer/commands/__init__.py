"""What each `extra-rl` command of the trainer does: options in, exit code out."""
