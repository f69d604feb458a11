"""Data sets: class tables, splits, images and long-tail builders."""
