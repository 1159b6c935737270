"""Server start-up, settings, errors, health, logs and shutdown: once, for every service."""
