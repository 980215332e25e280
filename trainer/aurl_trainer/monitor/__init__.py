"""Reports of the ranks: snapshot files on tmpfs that the launcher serves. Imports no torch."""
