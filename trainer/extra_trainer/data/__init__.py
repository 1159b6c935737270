"""Problems: read from files, turned into prompts, and copied into the run folder."""
