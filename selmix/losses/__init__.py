"""Losses of long-tailed training, one value a sample."""
