"""Optimizers, learning-rate schedules, gradient clipping, the update guard, the average of weights."""
