"""Generates the custom resource definition and the job reference from the typed models."""
