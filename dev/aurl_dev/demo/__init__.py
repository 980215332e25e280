"""`make demo`, from an empty machine to music; the end-to-end tests reuse its parts."""
