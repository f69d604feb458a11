"""The tables of `benchmarks/unlabeled.py`."""


def print_tables(lines):
    """Print them."""
