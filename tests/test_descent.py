import pytest
import torch
from torch.nn import functional as F

from selmix.descent import cross_entropy_step_


def random_batch(dtype: torch.dtype, *, soft: bool, count: int = 11) -> tuple[torch.Tensor, ...]:
    """Return a weight [4, 6], features [b, 6] and targets [b, 4]."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 6, generator=generator, dtype=dtype)
    features = torch.randn(count, 6, generator=generator, dtype=dtype)
    if soft:
        targets = torch.randn(count, 4, generator=generator, dtype=dtype).softmax(1)
    else:
        targets = F.one_hot(torch.randint(4, (count,), generator=generator), 4).to(dtype)
    return weight, features, targets


def test_step_by_hand():
    # W = 0, so p = (1/2, 1/2); x = (2), label 0: gradient ((p - e) x) = (-1, +1), rate .5
    weight = torch.zeros(2, 1)
    cross_entropy_step_(weight, torch.tensor([[2.0]]), torch.tensor([[1.0, 0.0]]), rate=0.5)
    assert torch.equal(weight, torch.tensor([[0.5], [-0.5]]))


@pytest.mark.parametrize("count", [1, 11])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("rate", "decay"), [(0.1, 0.0), (0.1, 5e-4), (2.0, 0.3), (0.0, 0.3)])
def test_steps_are_those_of_autograd_and_sgd_with_weight_decay(rate, decay, soft, count):
    weight, features, targets = random_batch(torch.float64, soft=soft, count=count)
    head = torch.nn.Linear(6, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(weight)
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, weight_decay=decay)
    for _ in range(3):
        cross_entropy_step_(weight, features, targets, rate=rate, decay=decay)
        optimiser.zero_grad()
        F.cross_entropy(head(features), targets).backward()
        optimiser.step()
        torch.testing.assert_close(weight, head.weight.detach(), rtol=1e-12, atol=1e-13)


def test_a_column_that_meets_ones_is_the_bias():
    weight, features, targets = random_batch(torch.float64, soft=False)
    features[:, -1] = 1
    head = torch.nn.Linear(5, 4, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(weight[:, :-1])
        head.bias.copy_(weight[:, -1])
    F.cross_entropy(head(features[:, :-1]), targets.argmax(1)).backward()
    cross_entropy_step_(weight, features, targets, rate=0.7)
    torch.testing.assert_close(weight[:, :-1], (head.weight - 0.7 * head.weight.grad).detach())
    torch.testing.assert_close(weight[:, -1], (head.bias - 0.7 * head.bias.grad).detach())


def test_step_works_in_place_and_spares_its_inputs():
    weight, features, targets = random_batch(torch.float32, soft=True)
    before, pointer = (weight.clone(), features.clone(), targets.clone()), weight.data_ptr()
    assert cross_entropy_step_(weight, features, targets, rate=0.1, decay=0.1) is None
    assert weight.data_ptr() == pointer
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, before[0])
    assert torch.equal(features, before[1])
    assert torch.equal(targets, before[2])


def test_targets_that_the_head_predicts_already_leave_only_the_decay():
    weight, features, _ = random_batch(torch.float64, soft=True)
    expected = (1 - 0.1 * 0.2) * weight
    cross_entropy_step_(weight, features, (features @ weight.T).softmax(1), rate=0.1, decay=0.2)
    torch.testing.assert_close(weight, expected)
