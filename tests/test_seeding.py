import numpy as np
import pytest
import torch

from selmix.seeding import derived_seed, numpy_generator, torch_generator


@pytest.mark.parametrize(
    ("seed", "name", "digest"),
    [
        # printf %s 0/stage2 | sha256sum, its first 8 bytes
        (0, "stage2", "4543b1f265a21486"),
        (7, "augment", "b64912f9374ad200"),
    ],
)
def test_seed_is_read_off_the_digest(seed, name, digest):
    little_endian = sum(byte << (8 * place) for place, byte in enumerate(bytes.fromhex(digest)))
    assert derived_seed(seed, name) == little_endian // 2


def test_seeds_fit_in_63_bits_and_differ():
    seeds = {derived_seed(seed, name) for seed in range(50) for name in ("pairs", "members", "mix", "1", "11")}
    assert len(seeds) == 250
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60


def test_seed_and_name_do_not_run_together():
    assert derived_seed(1, "1/x") != derived_seed(11, "x")


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed, name: torch.rand(64, generator=torch_generator(seed, name), dtype=torch.float64).numpy(),
        lambda seed, name: numpy_generator(seed, name).random(64),
    ],
    ids=["torch", "numpy"],
)
def test_streams_repeat_and_differ_by_seed_and_by_name(draw):
    stream = draw(3, "pairs")
    assert np.array_equal(stream, draw(3, "pairs"))
    for other in (draw(4, "pairs"), draw(3, "members")):
        assert not np.isin(stream, other).any()


def test_generators_leave_the_global_streams_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    torch.rand(3, generator=torch_generator(0, "pairs"))
    numpy_generator(0, "pairs").random(3)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before
