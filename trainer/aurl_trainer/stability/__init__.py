"""Detectors of anomalies in a run, and their configuration. No torch."""
