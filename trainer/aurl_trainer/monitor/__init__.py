"""What a rank says about itself: snapshot files on tmpfs that the launcher serves; imports no torch."""
