"""Batches of mixed pairs: whose label is kept, where a mixture lies, and the law of its coefficient."""

import pytest
import torch
from scipy import stats

from selmix.features.pool import Pool
from selmix.features.rows import Rows, StackedRows
from selmix.features.space import FeatureSpace
from selmix.pairs import ClassMembers
from selmix.stage2 import batches as batches_module
from selmix.stage2.batches import PairBatches

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 2])
FEATURES = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


AS_IT_IS = FeatureSpace(torch.zeros(1), 1.0)
NONE = torch.zeros(3, dtype=torch.float64)


def batches(
    mix_low: float,
    *,
    batch_size: int = 32,
    features: Rows = FEATURES,
    space: FeatureSpace = AS_IT_IS,
    copies: int = 1,
    groups: int = 1,
    smoothing: torch.Tensor | None = None,
) -> PairBatches:
    members = [ClassMembers.from_labels(LABELS, 3)] * copies
    generator = torch.Generator().manual_seed(1)
    return PairBatches(
        Pool(features), space, members, batch_size, mix_low, generator, NONE if smoothing is None else smoothing, groups
    )


def only(kept: int, partner: int) -> torch.Tensor:
    distribution = torch.zeros(3, 3, dtype=torch.float64)
    distribution[kept, partner] = 1
    return distribution


def members(label: int) -> torch.Tensor:
    return FEATURES[torch.tensor(label) == LABELS]


def coefficient_on_a_segment(mixture: torch.Tensor, kept: int, partner: int) -> float:
    """Return lam with mixture = lam a + (1 - lam) b for a sample a of class `kept` and b of `partner`."""
    found = []
    for a in members(kept):
        for b in members(partner):
            lam = float((mixture - b) @ (a - b) / (a - b).square().sum()) if not torch.equal(a, b) else 1.0
            if torch.allclose(lam * a + (1 - lam) * b, mixture, rtol=0, atol=1e-9):
                found.append(lam)
    assert found, "the mixture lies on no segment between the two classes"
    return max(found)


@pytest.mark.parametrize("mix_low", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("kept", "partner"), [(0, 1), (1, 0), (2, 2)])
def test_mixtures_lie_between_a_kept_and_a_partner_sample(kept, partner, mix_low):
    ((mixed, targets),) = batches(mix_low, batch_size=64).draw(only(kept, partner), 1)
    assert mixed.shape == (1, 64, 7)
    assert mixed.dtype == targets.dtype == torch.float64
    assert targets.tolist() == [[float(label == kept) for label in range(3)]] * 64
    assert (mixed[..., -1] == 1).all()
    for mixture in mixed[0, :, :-1]:
        assert mix_low - 1e-9 <= coefficient_on_a_segment(mixture, kept, partner) <= 1 + 1e-9


def test_targets_are_smoothed_by_the_class_that_is_kept():
    smoothing = torch.tensor([0.3, 0.0, 0.6], dtype=torch.float64)
    for kept, target in ((0, [0.8, 0.1, 0.1]), (1, [0.0, 1.0, 0.0]), (2, [0.2, 0.2, 0.6])):
        ((_, targets),) = batches(0.6, smoothing=smoothing).draw(only(kept, 1), 1)
        torch.testing.assert_close(targets, torch.tensor([target], dtype=torch.float64).expand(32, 3))


@pytest.mark.parametrize("mix_low", [0.0, 0.6])
def test_the_coefficient_is_uniform(mix_low):
    # class 0 at 0 and class 1 at 1: a mixture that keeps class 1 is its own coefficient
    ((mixed, _),) = batches(mix_low, batch_size=4000, features=LABELS.double()[:, None]).draw(only(1, 0), 1)
    law = stats.uniform(loc=mix_low, scale=1 - mix_low)
    assert stats.kstest(mixed[..., 0].flatten().numpy(), law.cdf).pvalue > 1e-3


def test_pairs_follow_the_law():
    law = torch.tensor([[0.0, 0.4, 0.1], [0.2, 0.0, 0.0], [0.0, 0.0, 0.3]], dtype=torch.float64)
    # with mix_low = 1 a mixture is the kept sample itself; its class is the target's
    drawn = list(batches(1.0, batch_size=500, features=LABELS.double()[:, None]).draw(law, 8))
    assert len(drawn) == 8
    kept = torch.cat([targets for _, targets in drawn]).argmax(1)
    assert torch.equal(torch.cat([mixed[0, :, 0] for mixed, _ in drawn]).long(), kept)
    observed = torch.bincount(kept, minlength=3).numpy()
    assert stats.chisquare(observed, [4000 * share for share in (0.5, 0.2, 0.3)]).pvalue > 1e-3


def test_every_member_takes_part():
    ((mixed, _),) = batches(1.0, batch_size=200).draw(only(2, 0), 1)
    assert {tuple(row) for row in mixed[0, :, :-1].tolist()} == {tuple(row) for row in members(2).tolist()}


def test_a_mixture_is_given_in_the_space():
    law = only(1, 2)
    space = FeatureSpace(torch.arange(6.0, dtype=torch.float64), 4.0)
    ((plain, targets),) = batches(0.6).draw(law, 1)
    ((encoded, same),) = batches(0.6, space=space).draw(law, 1)
    torch.testing.assert_close(encoded[..., :-1], (plain[..., :-1] - space.centre) / 4)
    assert (encoded[..., -1] == 1).all()
    assert torch.equal(targets, same)


@pytest.mark.parametrize("cells", [1, 32 * (7 * 2 + 3), 32 * (7 * 2 + 3) * 2 + 1])
@pytest.mark.parametrize("features", [FEATURES, StackedRows([FEATURES[:3], FEATURES[3:3], FEATURES[3:]])])
def test_batches_depend_neither_on_the_steps_read_at_a_time_nor_on_where_the_rows_lie(monkeypatch, cells, features):
    law = torch.full((3, 3), 1 / 9, dtype=torch.float64)
    expected = list(batches(0.6, copies=2).draw(law, 5))
    monkeypatch.setattr(batches_module, "_CELLS", cells)
    actual = list(batches(0.6, copies=2, features=features).draw(law, 5))
    assert len(actual) == len(expected) == 5
    for (own, own_targets), (mixed, targets) in zip(actual, expected, strict=True):
        assert own.shape == (2, 32, 7)
        assert torch.equal(own, mixed)
        assert torch.equal(own_targets, targets)
        assert not torch.equal(own[0], own[1])


def test_groups_of_a_class_have_its_target():
    # one sample a row of the law, whose feature is the row; the kept sample is all of the mixture
    law = torch.full((4, 4), 1 / 16, dtype=torch.float64)
    rows = torch.arange(4)
    members = [ClassMembers.from_labels(rows, 4)]
    generator = torch.Generator().manual_seed(0)
    drawn = PairBatches(Pool(rows[:, None].double()), AS_IT_IS, members, 50, 1.0, generator, NONE[:2], groups=2)
    ((mixed, targets),) = drawn.draw(law, 1)
    assert targets.shape == (50, 2)
    assert torch.equal(targets.argmax(1), mixed[0, :, 0].long() // 2)
    assert set(mixed[0, :, 0].tolist()) == {0, 1, 2, 3}
