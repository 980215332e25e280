"""The command line; each command is imported only when it runs."""
