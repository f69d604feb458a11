"""Linear heads, the space they are tuned in, and class means."""

import pytest
import torch
from torch.nn import functional as F

from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.heads import LinearHead


def random_case(seed: int, *, n: int = 50, d: int = 6, k: int = 4) -> tuple[LinearHead, torch.Tensor]:
    """Return a head and features far from the origin and of unequal spread."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(k, d, generator=generator), torch.randn(k, generator=generator)
    features = torch.randn(n, d, generator=generator) * torch.arange(1.0, d + 1) + 3
    return LinearHead(weight, bias), features


def test_logits_by_hand():
    head = LinearHead(torch.tensor([[1.0, 0], [0, 2], [1, 1]]), torch.tensor([0.0, -1, 0.5]))
    features = torch.tensor([[3.0, 1], [0, 4]])
    assert head.logits(features).tolist() == [[3, 1, 4.5], [0, 7, 4.5]]
    assert head.predict(features).tolist() == [2, 1]
    assert head.num_classes == 3


def test_logits_agree_with_torch():
    head, features = random_case(0)
    torch.testing.assert_close(head.logits(features), F.linear(features, head.weight, head.bias))
    assert torch.equal(head.predict(features), F.linear(features, head.weight, head.bias).argmax(1))


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_space_leaves_logits_alone(seed):
    head, features = random_case(seed)
    space = FeatureSpace.fit(features)
    others = random_case(seed + 100)[1]
    weight = space.encode_head(head)
    torch.testing.assert_close(space.encode(others) @ weight.T, head.logits(others), rtol=1e-4, atol=1e-4)
    back = space.decode_head(weight)
    torch.testing.assert_close(back.weight, head.weight)
    torch.testing.assert_close(back.bias, head.bias, rtol=1e-4, atol=1e-4)


def test_decoding_a_weight_gives_its_logits():
    _, features = random_case(1)
    space = FeatureSpace.fit(features)
    weight = torch.randn(4, 7, generator=torch.Generator().manual_seed(5))
    logits = space.encode(features) @ weight.T
    torch.testing.assert_close(space.decode_head(weight).logits(features), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1e-4, 0), (1e4, 50), (1, 1000)])
def test_encoded_features_are_centred_and_of_unit_mean_square(scale, shift):
    features = random_case(2)[1] * scale + shift
    encoded = FeatureSpace.fit(features).encode(features)
    assert encoded.shape == (50, 7)
    assert (encoded[:, -1] == 1).all()
    torch.testing.assert_close(encoded[:, :-1].mean(0), torch.zeros(6), rtol=0, atol=1e-4)
    assert float(encoded[:, :-1].square().sum(1).mean()) == pytest.approx(1, rel=1e-3)


def test_encoding_by_hand():
    # centre (1, 2); distances from it 3 and 3
    space = FeatureSpace.fit(torch.tensor([[4.0, 2], [-2, 2]]))
    assert space.centre.tolist() == [1, 2]
    assert space.scale == 3
    assert space.encode(torch.tensor([[4.0, -1]])).tolist() == [[1, -1, 1]]


@pytest.mark.parametrize("value", [0.0, 0.1, -7e3])
def test_constant_features_do_not_divide_by_zero(value):
    features = torch.full((1001, 3), value)
    space = FeatureSpace.fit(features)
    torch.testing.assert_close(space.encode(features), torch.tensor([[0.0, 0, 0, 1]]).expand(1001, 4))
    head = random_case(3, d=3)[0]
    torch.testing.assert_close(space.decode_head(space.encode_head(head)).logits(features), head.logits(features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_class_means_agree_with_a_loop_and_are_zero_for_an_empty_class(dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 3, generator=generator).to(dtype)
    labels = torch.randint(4, (60,), generator=generator)
    labels[labels == 2] = 3
    means = class_means(features, labels, 5)
    assert means.dtype == torch.float64
    for label in range(5):
        rows = [row for row, own in zip(features.double().tolist(), labels.tolist(), strict=True) if own == label]
        expected = [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else [0.0] * 3
        torch.testing.assert_close(means[label], torch.tensor(expected, dtype=torch.float64))
    assert labels.unique().tolist() == [0, 1, 3]


def test_class_means_do_not_lose_digits_to_a_large_offset():
    # 1e5 samples of 4096 + {0, 1/2}: float32 sums would be off by far more than the spread
    features = (4096 + 0.5 * (torch.arange(100_000) % 2))[:, None]
    means = class_means(features, torch.zeros(100_000, dtype=torch.int64), 1)
    assert means.item() == 4096.25
