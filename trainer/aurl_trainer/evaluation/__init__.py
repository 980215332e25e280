"""Evaluation: likelihood of held-out music, and samples compared with the corpus."""
