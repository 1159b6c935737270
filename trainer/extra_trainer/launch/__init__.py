"""Starting a training run: its plan, its services, and the process that trains."""
