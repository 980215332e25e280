"""Checkpoints: visible only when complete, verified on load, and exact."""
