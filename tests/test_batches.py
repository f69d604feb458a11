"""Batches of mixed pairs: whose label is kept, where a mixture lies, and the law of its coefficient."""

import pytest
import torch
from scipy import stats

from selmix.pairs import ClassMembers
from selmix.stage2.batches import PairBatches

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 2])
FEATURES = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batches(mix_low: float, *, batch_size: int = 32, features: torch.Tensor = FEATURES) -> PairBatches:
    return PairBatches(
        features, [ClassMembers.from_labels(LABELS, 3)], batch_size, mix_low, torch.Generator().manual_seed(1)
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
    assert mixed.shape == (1, 64, 6)
    assert mixed.dtype == targets.dtype == torch.float64
    assert targets.tolist() == [[float(label == kept) for label in range(3)]] * 64
    for mixture in mixed[0]:
        assert mix_low - 1e-9 <= coefficient_on_a_segment(mixture, kept, partner) <= 1 + 1e-9


@pytest.mark.parametrize("mix_low", [0.0, 0.6])
def test_the_coefficient_is_uniform(mix_low):
    # class 0 at 0 and class 1 at 1: a mixture that keeps class 1 is its own coefficient
    ((mixed, _),) = batches(mix_low, batch_size=4000, features=LABELS.double()[:, None]).draw(only(1, 0), 1)
    law = stats.uniform(loc=mix_low, scale=1 - mix_low)
    assert stats.kstest(mixed.flatten().numpy(), law.cdf).pvalue > 1e-3


def test_pairs_follow_the_law():
    law = torch.tensor([[0.0, 0.4, 0.1], [0.2, 0.0, 0.0], [0.0, 0.0, 0.3]], dtype=torch.float64)
    # with mix_low = 1 a mixture is the kept sample itself; its class is the target's
    drawn = list(batches(1.0, batch_size=500, features=LABELS.double()[:, None]).draw(law, 8))
    assert len(drawn) == 8
    kept = torch.cat([targets for _, targets in drawn]).argmax(1)
    assert torch.equal(torch.cat([mixed for mixed, _ in drawn], dim=1).flatten().long(), kept)
    observed = torch.bincount(kept, minlength=3).numpy()
    assert stats.chisquare(observed, [4000 * share for share in (0.5, 0.2, 0.3)]).pvalue > 1e-3


def test_every_member_takes_part():
    ((mixed, _),) = batches(1.0, batch_size=200).draw(only(2, 0), 1)
    assert {tuple(row) for row in mixed[0].tolist()} == {tuple(row) for row in members(2).tolist()}
