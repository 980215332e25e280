"""A real Kubernetes for demos and tests: the user's own, kind, or one built from Debian packages."""
