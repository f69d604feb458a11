"""AutoBalance's search: steps on the loss against dense derivatives, and what it leaves alone."""

import math
import weakref
from dataclasses import dataclass, replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selmix.errors import UsageError
from selmix.ranks import ALONE
from selmix.stage1.autobalance import SearchState, hyper_step, loss_learning_rate, search, validation_error
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.cells import Goals
from selmix.stage1.hypergradient import neumann, second_products
from selmix.stage1.hyperstep import trained_parameters, training_loss, training_products, validation_gradient
from selmix.stage1.images import DeviceImages
from selmix.stage1.plan import plan_epoch
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.supervised import planned_batches


@dataclass
class Points:
    """Inputs that need no augmentation, in float64."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def loads(self, requests):
        for positions, _ in requests:
            yield self.inputs[positions]


def points(counts, seed, dim=3, gap=1.5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = gap * torch.eye(len(counts), dim, dtype=torch.float64)
    noise = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return Points(centres[labels] + noise, labels)


LOOP = SupervisedSettings(epochs=4, batch_size=10, warmup_epochs=0, channels_last=False, augmentation="none")
SEARCH = AutoBalanceSettings(
    start_epoch=1, interval=3, optimizer="sgd", learning_rate=1.0, momentum=0, weight_decay=0, warmup_epochs=0,
    step_epochs=(), step_factors=(), val_batches=2,
)  # fmt: skip


def begin(train, settings=SEARCH, loop=LOOP, model=None, groups=1):
    torch.manual_seed(0)
    model = model or nn.Linear(train.inputs.shape[1], int(train.labels.max()) // groups + 1).double()
    cells = len(torch.bincount(train.labels)) // groups
    design = settings.design(torch.bincount(train.labels, minlength=cells * groups).view(cells, groups))
    design = replace(
        design,
        clusters=design.clusters.double(),
        log_prior=design.log_prior.double(),
        start={name: values.double() for name, values in design.start.items()},
    )
    return TrainingState.begin(model, loop), design, SearchState.begin(design, settings)


def flat(tree):
    return torch.cat([part.flatten() for part in tree.values()])


def unflat(vector, like):
    parts = vector.split([part.numel() for part in like.values()])
    return {name: part.view_as(like[name]) for (name, part) in zip(like, parts, strict=True)}


def dense_derivatives(state, design, alpha, train):
    """Return Hessian and mixed derivative of the loss on all of train, written out."""
    theta = trained_parameters(state.model)

    def loss(theta_vector, alpha_vector):
        weights, values = unflat(theta_vector, theta), unflat(alpha_vector, alpha)
        logits = train.inputs @ weights["weight"].T + weights["bias"]
        scale = torch.sigmoid(values["scale"][:, 0])
        return F.cross_entropy(scale * logits + values["offset"][:, 0], train.labels)

    blocks = hessian(loss, (flat(theta), flat(alpha)))
    return blocks[0][0], blocks[1][0]


def balanced_slope(state, val):
    theta = trained_parameters(state.model)

    def loss(vector):
        weights = unflat(vector, theta)
        losses = F.cross_entropy(val.inputs @ weights["weight"].T + weights["bias"], val.labels, reduction="none")
        return torch.stack([losses[val.labels == k].mean() for k in val.labels.unique()]).mean()

    return jacobian(loss, flat(theta))


def test_step_is_the_exact_one_with_conjugate_gradients():
    """Of all images in several batches; alpha goes down the written-out hypergradient by rate 1."""
    train, val = points([30, 15, 5], 1), points([13, 6, 1], 2)
    settings = replace(SEARCH, method="conjugate_gradient", terms=40, train_batches=5, damping=0.1)
    state, design, searching = begin(train, settings)
    dense, mixed = dense_derivatives(state, design, searching.alpha, train)
    slope = balanced_slope(state, val)
    change = -mixed @ torch.linalg.solve(dense + 0.1 * torch.eye(len(dense)), slope)
    before = flat(searching.alpha).clone()
    hyper_step(state, searching, train, val, design, settings, LOOP, seed=0)
    torch.testing.assert_close(before - flat(searching.alpha), change, rtol=1e-6, atol=1e-9)
    assert abs(float(change[:3].sum())) < 1e-12  # a constant on all offsets does nothing


@pytest.mark.parametrize(("method", "scale"), [("identity", 1.0), ("neumann", 0.5)])
def test_step_of_the_other_methods(method, scale):
    train, val = points([30, 15, 5], 1), points([13, 6, 1], 2)
    settings = replace(SEARCH, method=method, terms=0, step=0.5, train_batches=5)
    state, design, searching = begin(train, settings)
    _, mixed = dense_derivatives(state, design, searching.alpha, train)
    before = flat(searching.alpha).clone()
    hyper_step(state, searching, train, val, design, settings, LOOP, seed=0)
    change = -scale * mixed @ balanced_slope(state, val)
    torch.testing.assert_close(before - flat(searching.alpha), change)


def test_a_batch_a_term_stays_close_to_exact():
    """At the minimum of a ridge problem: the mean of 60 cheap hypergradients has the direction of the exact one."""
    train, val = points([60, 30, 10], 1), points([13, 6, 1], 2)
    state, design, searching = begin(train)
    optimizer = torch.optim.LBFGS(state.model.parameters(), max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = design.tables(searching.alpha).losses(state.model(train.inputs), train.labels).mean()
        loss = loss + 0.05 * sum(part.square().sum() for part in state.model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    dense, mixed = dense_derivatives(state, design, searching.alpha, train)
    slope = balanced_slope(state, val)
    exact = -mixed @ torch.linalg.solve(dense + 0.1 * torch.eye(len(dense)), slope)
    theta = trained_parameters(state.model)
    loop = replace(LOOP, batch_size=20)
    draws = []
    for seed in range(60):
        plan = plan_epoch(train.labels, loop, epoch=0, seed=seed)
        products = training_products(state.model, theta, searching.alpha, design, train, plan, fresh=1, seed=0)
        found, growth = neumann(products, unflat(slope, theta), step=1.0, terms=5, damping=0.1)
        assert growth < 1
        draws.append(flat(found))
    cosines = torch.stack([torch.cosine_similarity(draw, exact, dim=0) for draw in draws])
    assert cosines.mean() > 0.9
    assert torch.cosine_similarity(torch.stack(draws).mean(0), exact, dim=0) > 0.98


@pytest.mark.parametrize(
    ("goals", "second"),
    [(Goals(4, 2), None), (Goals(4, 2, "accuracy"), None), (Goals(4, 2, "balanced", "deo", 0.3), True)],
)
def test_gradient_on_validation_is_that_of_all_batches_at_once(goals, second):
    """Whatever batch a cell falls into: divided by its count in all of them."""
    generator = torch.Generator().manual_seed(0)
    val = Points(torch.randn(30, 3, generator=generator, dtype=torch.float64), (torch.arange(30) ** 2 % 7).clamp_max(3))
    model = nn.Linear(3, 2).double()
    theta = trained_parameters(model)
    plan = plan_epoch(val.labels, LOOP, epoch=0, seed=0)
    found, whole = validation_gradient(model, theta, val, plan, goals)
    losses = F.cross_entropy(model(val.inputs), val.labels // 2, reduction="none")
    means = torch.stack([losses[val.labels == cell].mean() for cell in range(4)])
    expected = {"balanced": means.mean(), "accuracy": losses.mean()}[goals.goal]
    if second:
        expected = 0.7 * expected + 0.3 * ((means[0] - means[1]).abs() + (means[2] - means[3]).abs())
    expected.backward()
    assert float(whole) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(found["weight"], model.weight.grad)
    torch.testing.assert_close(found["bias"], model.bias.grad)


def images(count, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator).square() // (classes - 1)
    return DeviceImages(pixels, labels, (0.5,) * 3, (0.25,) * 3, 1)


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4, 3),
    )


def image_search(settings=SEARCH, loop=LOOP):
    train, val = images(60, 1), images(40, 2)
    design = settings.design(torch.bincount(train.labels)[:, None])
    return TrainingState.begin(network(), loop), SearchState.begin(design, settings), train, val, design


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_the_network_is_left_alone(mixup):
    loop = replace(LOOP, mixup_alpha=mixup)
    state, searching, train, val, design = image_search(loop=loop)
    state.model.train()
    state.model(next(train.loads([(torch.arange(30), torch.arange(30))])))  # statistics that are not the initial ones
    before = {name: part.clone() for name, part in state.model.state_dict().items()}
    alpha = flat(searching.alpha).clone()
    hyper_step(state, searching, train, val, design, SEARCH, loop, seed=0)
    assert all(torch.equal(part, before[name]) for name, part in state.model.state_dict().items())
    assert all(part.grad is None for part in state.model.parameters())
    assert not torch.equal(flat(searching.alpha), alpha)
    assert state.model.training


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that live at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def forget(self, size):
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        known = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in known:
                storage = leaf.untyped_storage()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.forget, storage.nbytes())
        return out


def peak_bytes(settings):
    """Return the most bytes that lived at a time during a step on the loss, beyond what did before."""
    state, searching, train, val, design = image_search(settings)
    hyper_step(state, searching, train, val, design, settings, LOOP, seed=0)
    with Living() as living:
        hyper_step(state, searching, train, val, design, settings, LOOP, seed=0)
    return living.peak


def test_memory_does_not_grow_with_the_batches():
    few = replace(SEARCH, val_batches=1, train_batches=1, step=1.0)
    many = replace(few, val_batches=4, train_batches=6)
    assert peak_bytes(many) == pytest.approx(peak_bytes(few), rel=0.05)
    held = replace(few, method="conjugate_gradient", train_batches=6)
    assert peak_bytes(held) == pytest.approx(peak_bytes(few), rel=0.05)


def test_cost_is_as_said():
    """A pass a validation batch and a Neumann term, one for the last mixed derivative, at times the eigenvalue."""
    state, searching, train, val, design = image_search(replace(SEARCH, terms=5, val_batches=3))
    passes = []
    state.model.register_forward_hook(lambda model, *_: passes.append(model.training))
    counts = []
    for step in range(7):
        hyper_step(state, searching, train, val, design, replace(SEARCH, val_batches=3), LOOP, seed=step)
        counts.append(len(passes))
        # validation goes through the network as it is used, training as it trains
        assert passes == [False] * 3 + [True] * (len(passes) - 3)
        passes.clear()
    assert counts == [3 + 6 + 10, 9, 9, 9, 9, 3 + 6 + 1, 9]
    assert searching.hyper_steps == 7


def test_a_series_that_blows_up_changes_nothing():
    state, searching, train, val, design = image_search()
    searching.eigenvalue = 3.0
    before = flat(searching.alpha).clone()
    hyper_step(state, searching, train, val, design, replace(SEARCH, step=1e4), LOOP, seed=0)
    assert torch.equal(flat(searching.alpha), before)
    assert (searching.skipped, searching.eigenvalue) == (1, 0.0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resuming_is_exact(tmp_path, optimizer):
    settings = replace(SEARCH, optimizer=optimizer, learning_rate=0.1, momentum=0.9)

    def run(stop, path=None):
        state, searching, train, val, design = image_search(settings)
        if path and path.is_file():
            searching.load_state_dict(state.load(path)["search"])
        for record in search(state, searching, train, val, design, settings, LOOP, seed=5):
            if record["epoch"] == stop:
                state.save(path, {"search": searching.state_dict()})
                break
        return state, searching, record

    run(2, tmp_path / "checkpoint.pt")
    resumed, whole = run(None, tmp_path / "checkpoint.pt"), run(None)
    assert resumed[2]["loss"] == whole[2]["loss"]
    assert torch.equal(flat(resumed[0].model.state_dict()), flat(whole[0].model.state_dict()))
    for part in ("alpha", "best", "direction"):
        assert torch.equal(flat(getattr(resumed[1], part)), flat(getattr(whole[1], part)))
    for part in ("best_score", "eigenvalue", "hyper_steps"):
        assert getattr(resumed[1], part) == getattr(whole[1], part)


def test_search_finds_the_prior():
    """From plain cross-entropy on long-tailed Gaussians: offsets in the order of the priors, and a better balance."""
    train, val = points([200, 60, 20, 7], 3, dim=4), points([50, 15, 5, 2], 4, dim=4)
    loop = replace(LOOP, epochs=30, batch_size=32, learning_rate=0.2, weight_decay=1e-2)
    settings = replace(SEARCH, tau=0.0, start_epoch=5, interval=2, optimizer="adam", learning_rate=0.05)
    state, design, searching = begin(train, settings, loop)
    records = list(search(state, searching, train, val, design, settings, loop, seed=0))
    alone = replace(settings, start_epoch=29, interval=1000)
    plain, _, idle = begin(train, alone, loop)
    for _ in search(plain, idle, train, val, design, alone, loop, seed=0):
        pass
    assert torch.equal(idle.alpha["offset"], design.start["offset"])
    offsets = searching.alpha["offset"][:, 0]
    assert spearmanr(offsets, [4, 3, 2, 1]).statistic > 0.8
    scale = design.tables(searching.alpha).scale
    assert ((scale > 0) & (scale < 1)).all()
    test = points([500] * 4, 9, dim=4)
    errors = [validation_error(found, test, design, settings) for found in (state, plain)]
    assert errors[0] < errors[1] - 0.05
    assert searching.best_score == min(record["val_error"] for record in records if "val_error" in record)
    assert "val_error" not in records[4]
    assert "val_error" in records[5]


def test_classes_without_validation_are_told(caplog):
    train, val = points([20, 10, 5], 1), points([10, 5], 2)
    state, design, searching = begin(train)
    next(search(state, searching, train, val, design, SEARCH, LOOP, seed=0))
    assert "1 classes (in their groups) have no image in val," in caplog.text


def test_validation_error_by_hand():
    train = points([5, 5], 0)
    state, design, _ = begin(train)
    inputs = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    val = Points(inputs, torch.tensor([0, 0, 0, 0, 1, 1]))
    wrong = state.model(val.inputs).argmax(1) != val.labels
    expected = (wrong[:4].double().mean() + wrong[4:].double().mean()) / 2
    assert 0 < expected < 1
    assert validation_error(state, val, design, SEARCH) == pytest.approx(float(expected))
    # two groups: cells 0, 0, 1, 1, 2, 3, of the classes 0, 0, 0, 0, 1, 1
    state, design, _ = begin(points([3, 3, 3, 3], 0), groups=2)
    val = Points(inputs, torch.tensor([0, 0, 1, 1, 2, 3]))
    wrong = (state.model(val.inputs).argmax(1) != torch.tensor([0, 0, 0, 0, 1, 1])).double()
    expected = (wrong[:2].mean() + wrong[2:4].mean() + wrong[4] + wrong[5]) / 4
    assert validation_error(state, val, design, SEARCH) == pytest.approx(float(expected))


def test_groups_and_equalised_odds():
    """Cells as labels: the network has as many outputs as there are classes."""
    train, val = points([20, 6, 4, 10], 1, dim=4), points([10, 3, 2, 5], 2, dim=4)
    settings = replace(SEARCH, blended_with="deo", learn=("offset", "weight"))
    state, design, searching = begin(train, settings, groups=2)
    records = list(search(state, searching, train, val, design, settings, LOOP, seed=0))
    assert searching.alpha["offset"].shape == (2, 2)
    assert searching.hyper_steps > 0
    assert math.isfinite(records[-1]["val_error"])
    _, lone, _ = begin(train, settings)
    with pytest.raises(UsageError, match="deo compares groups"):
        settings.goals(lone)


def test_noise_is_differentiated():
    """The mixed derivative in the strength of the personal noise, against finite differences of the gradient."""
    settings = replace(SEARCH, learn=("offset", "noise"), noise_max=0.8)
    train, val = points([20, 10, 5], 1), points([8, 5, 2], 2)
    state, design, searching = begin(train, settings)
    theta = trained_parameters(state.model)
    batch = next(planned_batches(plan_epoch(train.labels, LOOP, epoch=0, seed=0), train, ALONE))
    noise = torch.randn(batch.inputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def slope(alpha):
        leaves = {name: part.clone().requires_grad_() for name, part in theta.items()}
        loss = training_loss(state.model, leaves, alpha, design, batch, noise)
        return flat(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))

    vector = unflat(torch.arange(1.0, 13, dtype=torch.float64), theta)
    found = second_products(
        lambda t, a: training_loss(state.model, t, a, design, batch, noise), theta, searching.alpha, vector
    )[1]
    for k in range(3):
        ends = []
        for sign in (1, -1):
            alpha = {name: part.clone() for name, part in searching.alpha.items()}
            alpha["noise"][k] += sign * 1e-5
            ends.append(slope(alpha) @ flat(vector))
        assert float(found["noise"][k]) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, abs=1e-7)
    before = searching.alpha["noise"].clone()
    for _ in search(state, searching, train, val, design, settings, LOOP, seed=0):
        pass
    assert not torch.equal(searching.alpha["noise"], before)
    strength = design.tables(searching.best).noise
    assert ((strength > 0) & (strength < 0.8)).all()


def test_learning_rate_as_published():
    """Epochs 120 to 300: ten of warm-up, a tenth from 220, a hundredth from 260."""
    settings = AutoBalanceSettings()
    rates = [loss_learning_rate(settings, at=at) for at in (120, 125, 130, 219.9, 220, 260, 299)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.01, 0.001, 0.0001, 0.0001])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn": ()}, "learn must be"),
        ({"learn": ("offset", "tau")}, "learn must be"),
        ({"learn": ("scale", "scale")}, "learn must be"),
        ({"learn": ("noise",)}, "noise_max must be"),
        ({"noise_max": 1.0}, "noise_max must be"),
        ({"blended_with": "balanced"}, "another goal"),
        ({"method": "conjugate_gradient", "terms": 0}, "terms must be"),
        ({"step": 0.0}, "step must be auto"),
        ({"step_factors": (0.1,)}, "one factor"),
        ({"interval": 0, "blend": 2.0}, "blend must be in .*interval must be"),
    ],
)
def test_settings_without_meaning_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(AutoBalanceSettings(), **changes)


def test_settings_that_do_not_fit_the_loop_are_refused():
    with pytest.raises(UsageError, match="start_epoch must be below epochs.* 4 and 4"):
        replace(SEARCH, start_epoch=4).check_beside(LOOP)
    noisy = replace(SEARCH, learn=("noise",), noise_max=1.0)
    with pytest.raises(UsageError, match="without mixup"):
        noisy.check_beside(replace(LOOP, mixup_alpha=0.2))
