"""Learning rates: the published lists, torch's own schedulers, and warm-up by hand."""

import math

import pytest
import torch

from selmix.stage1.schedules import cosine, learning_rate, steps, warmup
from selmix.stage1.settings import SupervisedSettings


def rates(at: list[int], /, *, step: int = 0, steps_per_epoch: int = 97, **settings) -> list[float]:
    own = SupervisedSettings(**{"schedule": "step", "rate_changes": "epoch", "learning_rate": 1.0} | settings)
    return [learning_rate(own, epoch=epoch, step=step, steps_per_epoch=steps_per_epoch) for epoch in at]


# 0-based epochs and rates as the released code of each paper has them
@pytest.mark.parametrize("step", [0, 96])
@pytest.mark.parametrize(
    ("settings", "listed"),
    [
        (
            {"learning_rate": 0.1, "warmup_epochs": 5, "step_epochs": (160, 180), "step_factors": (0.1, 0.01)},
            {0: 0.02, 1: 0.04, 4: 0.1, 5: 0.1, 159: 0.1, 160: 0.01, 179: 0.01, 180: 0.001, 199: 0.001},  # MiSLAS
        ),
        (
            {"learning_rate": 0.1, "warmup_epochs": 5, "step_epochs": (160, 180), "step_factors": (0.01, 0.0001)},
            {0: 0.02, 159: 0.1, 160: 0.001, 180: 1e-5},  # LDAM, Class-Balanced
        ),
        (
            {"epochs": 301, "warmup_epochs": 5, "step_epochs": (220, 260), "step_factors": (0.1, 0.01)},
            {0: 0.2, 4: 1, 5: 1, 219: 1, 220: 0.1, 259: 0.1, 260: 0.01, 300: 0.01},  # AutoBalance, inner level
        ),
        (
            {
                "epochs": 1241, "learning_rate": 0.1, "warmup_epochs": 20,
                "step_epochs": (604, 926, 1128), "step_factors": (0.1, 0.01, 0.001),
            },
            {19: 0.1, 603: 0.1, 604: 0.01, 926: 0.001, 1128: 1e-4},  # logit adjustment
        ),
        (
            {"epochs": 10, "learning_rate": 0.1, "warmup_epochs": 0, "schedule": "cosine"},
            dict(enumerate([0.1, 0.0976, 0.0905, 0.0794, 0.0655, 0.05, 0.0345, 0.0206, 0.0095, 0.0024])),  # MiSLAS, 2
        ),
    ],
    ids=["mislas", "ldam", "autobalance", "logit adjustment", "mislas stage two"],
)  # fmt: skip
def test_the_rates_of_the_papers(settings, listed, step):
    # within an epoch nothing changes
    assert rates(list(listed), step=step, **settings) == pytest.approx(list(listed.values()), abs=5e-5, rel=1e-9)


def test_warmup_and_cosine_by_hand():
    assert [warmup(epoch, warmup_epochs=4) for epoch in (0, 1, 2.5, 4, 9)] == [0, 0.25, 0.625, 1, 1]
    assert warmup(0, warmup_epochs=0) == 1
    # a third, a half and two thirds of the way: (1 + cos 60) / 2, (1 + cos 90) / 2, (1 + cos 120) / 2
    shares = [cosine(epoch, start=4, end=16) for epoch in (0, 4, 8, 10, 12, 16, 17)]
    assert shares == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0], abs=1e-15)


@pytest.mark.parametrize("epochs", [1, 7])
def test_the_cosine_is_that_of_torch(epochs):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    for epoch in range(epochs + 1):
        assert cosine(epoch, start=0, end=epochs) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        schedule.step()


def test_the_steps_are_those_of_torch():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[3, 5], gamma=0.1)
    for epoch in range(8):
        own = steps(epoch, at=(3, 5), factors=(0.1, 0.01))
        assert own == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        schedule.step()


def test_a_rate_that_changes_every_step_by_hand():
    # two steps an epoch, two epochs of warm-up in quarters; then the cosine over two epochs at the end of each step
    by_step = {"rate_changes": "step", "schedule": "cosine", "epochs": 4, "warmup_epochs": 2, "steps_per_epoch": 2}
    own = [rates([epoch], step=step, **by_step)[0] for epoch in range(4) for step in range(2)]
    root = math.sqrt(2) / 4
    assert own == pytest.approx([0.25, 0.5, 0.75, 1, 0.5 + root, 0.5, 0.5 - root, 0])
    # steps fall with the first step of their epoch, or in its midst
    settings = {"rate_changes": "step", "epochs": 4, "warmup_epochs": 0, "step_factors": (0.5, 0.25)}
    own = [
        rates([epoch], step=step, steps_per_epoch=2, step_epochs=(1, 2.5), **settings)[0]
        for epoch in range(4)
        for step in range(2)
    ]
    assert own == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_rate_rises_to_its_peak_then_falls_without_a_jump():
    by_step = {"rate_changes": "step", "schedule": "cosine", "epochs": 20, "warmup_epochs": 5, "steps_per_epoch": 100}
    values = [rates([epoch], step=step, **by_step)[0] for epoch in range(20) for step in range(100)]
    assert max(values) == values[499] == 1
    assert all(a < b for a, b in zip(values[:499], values[1:500], strict=True))
    assert all(a > b for a, b in zip(values[499:-1], values[500:], strict=True))
    # the steepest slope is that of the warm-up, 1/5 per epoch
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) <= 0.002 + 1e-12


def test_the_shallow_cosine_by_hand():
    # at the end of epoch 21 x of 21, x of 7/16 of half a turn: 30, 45, 60 and 78.75 degrees
    shallow = {"schedule": "cosine_7_16", "rate_changes": "step", "warmup_epochs": 0, "epochs": 21}
    expected = [3**0.5 / 2, 0.5**0.5, 0.5, math.sin(math.pi / 16)]
    assert rates([7, 11, 15, 20], step=96, **shallow) == pytest.approx(expected)
    assert rates([0, 10], step=48, **shallow) == pytest.approx(
        [math.cos(7 * math.pi / 16 * done / 21) for done in (49 / 97, 10 + 49 / 97)]
    )
    # where it changes once an epoch, the first rate is the peak
    assert rates([0, 8], step=96, **shallow | {"rate_changes": "epoch"}) == pytest.approx([1, 3**0.5 / 2])
