"""Stage one with unlabeled images beside the labeled ones."""
