"""Problems: read from files, turned into prompts."""
