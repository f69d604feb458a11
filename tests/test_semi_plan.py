"""What an epoch with unlabeled images will do, drawn before it starts."""

import pytest
import torch
from scipy import stats

from selmix.semi.fixmatch import FixMatchSettings
from selmix.semi.plan import plan_semi_epoch
from selmix.stage1.settings import SupervisedSettings


def planned(labels=13, pool=29, *, epoch=0, seed=0, ratio=2, steps=7, batch=4, **settings):
    own = torch.arange(labels) % 3 if isinstance(labels, int) else labels
    loop = SupervisedSettings(batch_size=batch, **settings)
    semi = FixMatchSettings(unlabeled_ratio=ratio, steps_per_epoch=steps)
    return plan_semi_epoch(own, pool, loop, semi, epoch=epoch, seed=seed)


def flat(plan):
    return [
        plan.labeled.positions, plan.labeled.seeds, plan.positions, plan.weak_seeds, plan.strong_seeds,
    ]  # fmt: skip


@pytest.mark.parametrize(("labels", "pool"), [(13, 29), (3, 5), (28, 56), (200, 500)])
def test_images_come_equally_often(labels, pool):
    plan = planned(labels, pool)
    assert plan.labeled.positions.shape == plan.labeled.seeds.shape == plan.labeled.partners.shape == (7, 4)
    assert plan.positions.shape == plan.weak_seeds.shape == plan.strong_seeds.shape == (7, 8)
    assert plan.labeled.mix.tolist() == [1.0] * 7
    for positions, count in ((plan.labeled.positions, labels), (plan.positions, pool)):
        often = torch.bincount(positions.flatten(), minlength=count)
        assert len(often) == count
        assert int(often.max() - often.min()) <= 1
        # a pass ends before the next begins
        first = positions.flatten()[:count]
        assert len(first.unique()) == min(count, positions.numel())


def test_every_image_is_as_likely_as_any_other():
    drawn = torch.stack([torch.bincount(planned(5, 7, epoch=e, steps=1, batch=2).positions[0], minlength=7) for e in range(3000)])  # fmt: skip  # noqa: E501
    assert stats.chisquare(drawn.sum(0)).pvalue > 1e-3


def test_a_plan_is_a_function_of_seed_and_epoch_alone():
    before = torch.get_rng_state()
    first, again = (flat(planned(epoch=3, seed=1)) for _ in range(2))
    others = [flat(planned(epoch=e, seed=s)) for e, s in ((4, 1), (3, 2))]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    for other in others:
        assert not any(torch.equal(mine, theirs) for mine, theirs in zip(first, other, strict=True))


def test_the_labeled_batches_do_not_depend_on_the_pool():
    first, other = planned(pool=29, ratio=2), planned(pool=1000, ratio=5)
    assert torch.equal(first.labeled.positions, other.labeled.positions)
    assert torch.equal(first.labeled.seeds, other.labeled.seeds)


def test_no_two_views_share_a_seed():
    plan = planned(steps=200)
    seeds = torch.cat([part.flatten() for part in (plan.labeled.seeds, plan.weak_seeds, plan.strong_seeds)])
    assert len(seeds.unique()) == len(seeds)
    assert stats.kstest(seeds.double().numpy() / 2**62, "uniform").pvalue > 1e-3


def test_the_sampler_is_that_of_the_labeled_images():
    labels = torch.tensor([0] * 90 + [1] * 10)
    plan = planned(labels, steps=500, sampler="class_balanced")
    often = labels[plan.labeled.positions].sum() / plan.labeled.positions.numel()
    assert float(often) == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)
