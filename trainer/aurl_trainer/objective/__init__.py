"""Objectives of the modes: from a micro-batch to the loss of the model, and the critic's update."""
