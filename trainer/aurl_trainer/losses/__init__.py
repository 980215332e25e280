"""The loss: named, weighted and scheduled terms. No music theory: everything is learned from the data."""
