"""From a trained model to music: generation, MIDI files and piano rolls."""
