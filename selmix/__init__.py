"""selmix: a better linear head for the metric that matters when classes are imbalanced."""

__version__ = "0.1.0"
