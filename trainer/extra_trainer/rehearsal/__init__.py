"""The rehearsal: arithmetic problems, a small start model and its tokenizer, made by the project."""
