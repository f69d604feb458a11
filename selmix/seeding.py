"""Named random generators: every stochastic step gets its own stream, derived from one seed and a name."""

import hashlib

import numpy as np
import torch


def derived_seed(seed: int, name: str) -> int:
    """Return the 63-bit seed of the stream `name` under `seed`; the same on every machine and Python version."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_generator(seed: int, name: str) -> torch.Generator:
    """Return a CPU generator for the stream `name`; streams with different names are independent."""
    return torch.Generator().manual_seed(derived_seed(seed, name))


def own_generator(generator: torch.Generator, *, rank: int, count: int) -> torch.Generator:
    """Return a stream for what one of `count` processes draws alone, from one that all of them have in common.

    With one process that is the stream itself; with several all take the same numbers from the common one.
    """
    if count == 1:
        return generator
    seeds = torch.randint(1 << 62, (count,), generator=generator)
    return torch.Generator().manual_seed(int(seeds[rank]))


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """Return a NumPy generator for the stream `name`."""
    return np.random.default_rng(derived_seed(seed, name))
