"""What is minimised: named, weighted, scheduled terms. No music theory: all is learned from the data."""
