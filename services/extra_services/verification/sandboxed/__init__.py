"""What runs inside the sandboxes of a snippet's tests; the worker copies these files in (see `code`).

`program` runs beside the program and is not trusted, `snippet` runs the tests, and `values` is what crosses
between them. They use the standard library alone.
"""
