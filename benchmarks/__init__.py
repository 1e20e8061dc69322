"""Timings of the project's own programs; see `python -m benchmarks.step --help`."""
