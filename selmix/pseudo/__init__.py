"""Pseudo-labels: who says what an unlabeled sample is, whom to believe, and how often that is right."""
