"""Benchmarks: measured side by side on request (`make bench-trainer`), never part of the tests."""
