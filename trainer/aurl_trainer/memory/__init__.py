"""How much memory training takes: activation checkpointing, the size of a micro-batch, what was measured."""
