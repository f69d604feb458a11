"""An audit of pseudo-labels that anyone can read: a document, a table of all of them, a page."""
