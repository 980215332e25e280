"""How good a model is: likelihood of held-out music, and its own music beside the corpus."""
