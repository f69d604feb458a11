"""A finished run put to use: predictions, evaluation on other data, files to deploy (docs/deploy.md)."""
