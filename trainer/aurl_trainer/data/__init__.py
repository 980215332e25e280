"""From MIDI and scores to tokens, shards and batches; NumPy only, no torch."""
