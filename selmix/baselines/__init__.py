"""The simple alternatives that SelMix must beat."""
