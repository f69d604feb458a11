"""A run as one page that anyone can read: what a run records for it, figures, words, and the file itself."""
