"""What must stand in the environment before PyTorch is imported."""

import os

# a waiting OpenMP thread spins on its core; where another process needs that core, both crawl
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
