"""Export: trained models as self-contained directories, outside of their jobs."""
