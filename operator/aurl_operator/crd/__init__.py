"""Generates the CRD and the job reference from the typed models."""
