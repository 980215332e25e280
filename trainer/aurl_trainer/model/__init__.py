"""The models: their configuration, without torch, and their modules."""
