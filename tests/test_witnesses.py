"""What neighbours say in a cross-fit, and how much of a pool is like nobody."""

import pytest
import torch
from builders import gaussian_splits, pooled

from selmix.features.labeled import UnlabeledFeatures
from selmix.pseudo.voting import VoteSettings
from selmix.stage2.crossfit import CrossFit
from selmix.stage2.witnesses import GraphWitness, VoteWitness, folds_of, share_of_no_class

SPLITS = gaussian_splits([60, 20, 1], seed=0, spread=2.0, per_class=200, val=20)


def test_folds_are_those_of_the_judges():
    val = SPLITS["val"].subset(torch.arange(40))  # without the last class, whose only sample nobody judges
    plan, _ = pooled(SPLITS | {"val": val}, [5, 5, 5])
    folds = folds_of(plan)
    assert folds.shape == (121,)
    assert (folds == -1).nonzero().flatten().tolist() == [80]
    for fold, judged in enumerate(plan.judged):
        assert torch.equal((folds == fold).nonzero()[:, 0], judged.sort().values)


def test_votes_are_those_of_the_labeled_neighbours_outside_the_fold():
    plan, _ = pooled(SPLITS, [30, 30, 30])
    witness, folds = VoteWitness(plan), folds_of(plan)
    labeled = torch.cat([SPLITS["train"].features, SPLITS["val"].features]).double()
    centre = torch.stack([labeled[plan.labels == label].mean(0) for label in range(3)]).mean(0)
    unit = torch.nn.functional.normalize(labeled - centre, dim=1)
    of_pool = torch.nn.functional.normalize(plan.features.parts[-1].double() - centre, dim=1)
    settings = VoteSettings()

    def votes(query: torch.Tensor, fold: int, myself: int) -> torch.Tensor:
        others = [n for n in range(len(unit)) if folds[n] != fold and n != myself]
        nearest = sorted(others, key=lambda n: -float(unit[n] @ query))[: settings.count]
        shares = torch.zeros(3).double()
        for n in nearest:
            size = sum(int(plan.labels[other] == plan.labels[n]) for other in others)
            shares[plan.labels[n]] += ((unit[n] @ query) / settings.temperature).exp() / size
        return (shares / shares.sum()).float()

    for fold in range(3):
        asked = plan.judged[fold][::9]
        expected = torch.stack([votes(unit[n], fold, n) for n in asked.tolist()])
        torch.testing.assert_close(witness.labeled(fold, asked), expected, rtol=1e-3, atol=1e-4)
        expected = torch.stack([votes(own, fold, -1) for own in of_pool[40:50]])
        torch.testing.assert_close(witness.pool(fold, slice(40, 50)), expected, rtol=1e-3, atol=1e-4)


def test_a_graph_tells_of_labeled_samples_and_of_the_pool_what_is_theirs():
    plan, truth = pooled(SPLITS, [30, 30, 30])
    witness = GraphWitness(plan)
    for fold in range(4):
        pool = witness.pool(fold, slice(0, 90))
        assert torch.equal(pool[20:50], witness.pool(fold, slice(20, 50)))
        assert float((pool.argmax(1) == truth).double().mean()) > 0.85
        if fold < 3:
            judged = plan.judged[fold]
            told = witness.labeled(fold, judged)
            assert told.shape == (len(judged), 3)
            assert float((told.argmax(1) == plan.labels[judged]).double().mean()) > 0.85
    # who lies unlabeled is surely nobody's voice: with the own fold known, all are told by themselves
    assert float((witness.labeled(3, plan.judged[0]).argmax(1) == plan.labels[plan.judged[0]]).double().mean()) == 1


@pytest.mark.parametrize("foreign", [0, 100, 300])
def test_the_share_of_no_class_is_a_lower_bound(foreign):
    splits = gaussian_splits([100, 60, 40], seed=3, spread=4.0, per_class=200, val=60)
    generator = torch.Generator().manual_seed(1)
    pool = torch.cat([splits["test"].features[::2], 4 * torch.randn(foreign, 8, generator=generator)])
    plan = CrossFit.plan(
        splits["train"], splits["val"], 3, folds=3, generator=generator, unlabeled=UnlabeledFeatures(pool)
    )
    share, truth = share_of_no_class(plan, torch.full((3,), 1 / 3)), foreign / (300 + foreign)
    assert share <= truth + 0.05
    assert share >= 0.5 * truth
