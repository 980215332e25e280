"""Tests of the training loop in separate processes, forked or under real torchrun."""
