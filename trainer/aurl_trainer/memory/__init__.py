"""Memory of training: activation checkpointing, micro-batch size, measurements, running out."""
