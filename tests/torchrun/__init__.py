"""Tests of the training loop in processes of its own, by fork and under real torchrun."""
