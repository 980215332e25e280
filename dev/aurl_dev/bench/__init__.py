"""Benchmarks, run on request (`make bench-trainer`); the tests only run their smallest sizes."""
