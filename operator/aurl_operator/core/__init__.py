"""The operator's decisions: pure functions from what was observed to what to do."""
