"""What `make demo` runs, from nothing to music; the end-to-end tests reuse its pieces."""
