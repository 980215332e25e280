"""The command line; each command loads only what it needs, when it runs."""
