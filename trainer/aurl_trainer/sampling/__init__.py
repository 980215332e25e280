"""Music from a trained model: generation, MIDI files and piano rolls."""
