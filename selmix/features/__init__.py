"""Features: extraction, files of ready features, and statistics."""
