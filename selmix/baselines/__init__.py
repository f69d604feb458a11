"""The ladder: the alternatives that SelMix must beat."""
