import pytest
import torch
from torch.nn import functional as F

from selmix.descent import cross_entropy_step_


def random_batch(dtype: torch.dtype, *, soft: bool, count: int = 11, heads: int = 1) -> tuple[torch.Tensor, ...]:
    """Return weights [h, 4, 6], features [h, b, 6] and targets [h, b, 4]."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(heads, 4, 6, generator=generator, dtype=dtype)
    features = torch.randn(heads, count, 6, generator=generator, dtype=dtype)
    if soft:
        targets = torch.randn(heads, count, 4, generator=generator, dtype=dtype).softmax(2)
    else:
        targets = F.one_hot(torch.randint(4, (heads, count), generator=generator), 4).to(dtype)
    return weights, features, targets


def test_step_by_hand():
    # W = 0, so p = (1/2, 1/2); x = (2), label 0: gradient ((p - e) x) = (-1, +1), rate .5
    # and for the second head x = (-4), label 1: gradient (-2, +2)
    weights = torch.zeros(2, 2, 1)
    features = torch.tensor([[[2.0]], [[-4.0]]])
    cross_entropy_step_(weights, features, torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), rate=0.5)
    assert torch.equal(weights, torch.tensor([[[0.5], [-0.5]], [[1.0], [-1.0]]]))


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("count", [1, 11])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("rate", "decay"), [(0.1, 0.0), (0.1, 5e-4), (2.0, 0.3), (0.0, 0.3)])
def test_steps_are_those_of_autograd_and_sgd_with_weight_decay(rate, decay, soft, count, heads):
    weights, features, targets = random_batch(torch.float64, soft=soft, count=count, heads=heads)
    theirs = [torch.nn.Linear(6, 4, bias=False, dtype=torch.float64) for _ in range(heads)]
    with torch.no_grad():
        for head, weight in zip(theirs, weights, strict=True):
            head.weight.copy_(weight)
    optimisers = [torch.optim.SGD(head.parameters(), lr=rate, weight_decay=decay) for head in theirs]
    for _ in range(3):
        cross_entropy_step_(weights, features, targets, rate=rate, decay=decay)
        for number, (head, optimiser) in enumerate(zip(theirs, optimisers, strict=True)):
            optimiser.zero_grad()
            F.cross_entropy(head(features[number]), targets[number]).backward()
            optimiser.step()
            torch.testing.assert_close(weights[number], head.weight.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shared", [False, True], ids=["own targets", "shared targets"])
def test_heads_in_lock_step_take_the_steps_of_heads_alone(shared):
    weights, features, targets = random_batch(torch.float64, soft=True, heads=5)
    alone = weights.clone()
    for _ in range(4):
        cross_entropy_step_(weights, features, targets[2] if shared else targets, rate=0.5, decay=0.01)
        for head in range(5):
            own = targets[2] if shared else targets[head]
            cross_entropy_step_(alone[head : head + 1], features[head : head + 1], own[None], rate=0.5, decay=0.01)
    torch.testing.assert_close(weights, alone, rtol=1e-13, atol=1e-14)


def test_a_column_that_meets_ones_is_the_bias():
    weights, features, targets = random_batch(torch.float64, soft=False)
    features[:, :, -1] = 1
    head = torch.nn.Linear(5, 4, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(weights[0, :, :-1])
        head.bias.copy_(weights[0, :, -1])
    F.cross_entropy(head(features[0, :, :-1]), targets[0].argmax(1)).backward()
    cross_entropy_step_(weights, features, targets, rate=0.7)
    torch.testing.assert_close(weights[0, :, :-1], (head.weight - 0.7 * head.weight.grad).detach())
    torch.testing.assert_close(weights[0, :, -1], (head.bias - 0.7 * head.bias.grad).detach())


@pytest.mark.parametrize("heads", [1, 3])
def test_step_works_in_place_and_spares_its_inputs(heads):
    weights, features, targets = random_batch(torch.float32, soft=True, heads=heads)
    before, pointer = (weights.clone(), features.clone(), targets.clone()), weights.data_ptr()
    assert cross_entropy_step_(weights, features, targets, rate=0.1, decay=0.1) is None
    assert weights.data_ptr() == pointer
    assert weights.dtype == torch.float32
    assert not any(torch.equal(new, old) for new, old in zip(weights, before[0], strict=True))
    assert torch.equal(features, before[1])
    assert torch.equal(targets, before[2])


@pytest.mark.parametrize("heads", [1, 3])
def test_targets_that_the_heads_predict_already_leave_only_the_decay(heads):
    weights, features, _ = random_batch(torch.float64, soft=True, heads=heads)
    expected = (1 - 0.1 * 0.2) * weights
    predicted = torch.stack([(x @ w.T).softmax(1) for x, w in zip(features, weights, strict=True)])
    cross_entropy_step_(weights, features, predicted, rate=0.1, decay=0.2)
    torch.testing.assert_close(weights, expected)


def test_of_several_processes_each_takes_the_step_on_all_features():
    # this one has the features X_0, the others X_1: what these add to the logits is X_1 W^T, then residual^T X_1
    weights, features, targets = random_batch(torch.float64, soft=True, heads=3)
    own = features * (torch.arange(features.shape[1]) % 2)[:, None]
    residual = torch.einsum("hbd,hkd->hbk", features, weights).softmax(2) - targets
    terms = iter(
        [
            lambda part: torch.einsum("hbd,hkd->hkb", part, weights.clone()),
            lambda part: torch.einsum("hbk,hbd->hkd", residual, part),
        ]
    )

    def total(part: torch.Tensor) -> torch.Tensor:
        term = next(terms)
        torch.testing.assert_close(part, term(own))
        return part + term(features - own)

    expected = weights.clone()
    cross_entropy_step_(expected, features, targets, rate=0.7, decay=0.2)
    cross_entropy_step_(weights, own, targets, rate=0.7, decay=0.2, total=total)
    torch.testing.assert_close(weights, expected)
    assert next(terms, None) is None
