import math

import pytest
import torch

from selmix.stage1.schedules import warmup_cosine


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0),
        (1, 0.25),
        (3, 0.75),
        (4, 1),
        # a third, a half and two thirds of the cosine: (1 + cos 60) / 2, (1 + cos 90) / 2, (1 + cos 120) / 2
        (8, 0.75),
        (10, 0.5),
        (12, 0.25),
        (16, 0),
    ],
)
def test_multiplier_by_hand(epoch, expected):
    assert warmup_cosine(epoch, warmup_epochs=4, epochs=16) == pytest.approx(expected, abs=1e-15)


def test_multiplier_rises_to_one_then_falls_without_a_jump():
    values = [warmup_cosine(step / 100, warmup_epochs=5, epochs=20) for step in range(2001)]
    assert max(values) == values[500] == 1
    assert all(a < b for a, b in zip(values[:500], values[1:501], strict=True))
    assert all(a > b for a, b in zip(values[500:2000], values[501:], strict=True))
    # the steepest slope is that of the warm-up, 1/5 per epoch
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) <= 0.002 + 1e-12


@pytest.mark.parametrize("epochs", [1, 7])
def test_without_warmup_it_is_the_cosine_schedule_of_torch(epochs):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
    for epoch in range(epochs + 1):
        actual = warmup_cosine(epoch, warmup_epochs=0, epochs=epochs)
        assert actual == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        schedule.step()


def test_multiplier_is_finite_at_fractional_epochs():
    # halfway through the second epoch of a warm-up of three; halfway down the cosine
    assert warmup_cosine(1.5, warmup_epochs=3, epochs=4.5) == 0.5
    assert warmup_cosine(3.75, warmup_epochs=3, epochs=4.5) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
