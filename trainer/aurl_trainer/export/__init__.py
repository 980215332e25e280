"""Trained models outside of their job: in one folder that needs nothing else."""
