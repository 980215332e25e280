"""A real Kubernetes for demos and tests: the user's own, kind, or one from Debian's packages."""
