"""Helpers that tests share: models, servers, processes, faults. Importable in an editable installation."""
