"""The models: their configuration (free of torch) and their modules."""
