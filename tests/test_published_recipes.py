"""The recipes that ship: every file is complete, leads somewhere, and has the numbers that were published."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from test_cifar import write_batches, write_hundred

from selmix.backbones.models import check_arch
from selmix.data.sources import open_images
from selmix.data.spec import DataSpec, load_data_spec
from selmix.losses.class_balanced import class_balanced_weights
from selmix.recipe import FinetuneRecipe, build_settings, load_recipe, refine_settings
from selmix.semi.abc import AbcSettings
from selmix.semi.crest import CrestSettings
from selmix.semi.csst import CsstSettings
from selmix.semi.daso import DasoSettings
from selmix.semi.fixmatch import FixMatchSettings
from selmix.stage1.autobalance import loss_learning_rate
from selmix.stage1.autobalance_settings import AutoBalanceSettings
from selmix.stage1.loss_settings import CrossEntropySettings, LogitAdjustmentSettings
from selmix.stage1.retraining import RetrainSettings
from selmix.stage1.schedules import learning_rate
from selmix.stage1.settings import SupervisedSettings
from selmix.train_recipe import TrainRecipe, TrainSettings, train_settings

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
CIFAR = [f"cifar{k}_lt_if{factor}" for k in (10, 100) for factor in (100, 50, 10)]
LARGE = ["imagenet_lt", "places_lt", "inaturalist2018"]
# images of train, and of its smallest class
CIFAR_SIZES = {
    "cifar10_lt_if100": (12406, 50), "cifar10_lt_if50": (13996, 100), "cifar10_lt_if10": (20431, 500),
    "cifar100_lt_if100": (10847, 5), "cifar100_lt_if50": (12608, 10), "cifar100_lt_if10": (19573, 50),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What a paper or its code says of a setting; rates are those at the end of an epoch, counted from 0."""

    epochs: int
    batch: int
    decay: float
    rates: dict[int, float]
    mixup: float = 0.0
    sampler: str = "instance"
    nesterov: bool = False
    augmentation: str = "padded_crop"
    loss: dict[str, object] = field(default_factory=lambda: {"name": "cross_entropy"})
    classifier: RetrainSettings | None = None


# released code of MiSLAS and LDAM: warm-up in five epochs, then two steps
STEPS = {0: 0.02, 1: 0.04, 4: 0.1, 159: 0.1, 160: 0.01, 179: 0.01, 180: 0.001, 199: 0.001}
STEEP_STEPS = {0: 0.02, 3: 0.08, 4: 0.1, 159: 0.1, 160: 0.001, 179: 0.001, 180: 1e-5, 199: 1e-5}
# 0.05 (1 + cos(pi t / 10))
TEN_EPOCHS = dict(enumerate([0.1, 0.0976, 0.0905, 0.0794, 0.0655, 0.05, 0.0345, 0.0206, 0.0095, 0.0024]))
MIXUP_CIFAR = Published(200, 128, 5e-4, STEPS, mixup=1.0)
LDAM_DRW = {
    "name": "ldam", "max_margin": 0.5, "scale": 30.0, "weights": "class_balanced", "beta": 0.9999,
    "weights_from": 160, "divide_by": "weight",
}  # fmt: skip
CRT = RetrainSettings(head_start="random", learn_head=True, learn_scale=False, shift_batch_norm=True)
LWS = RetrainSettings(learn_head=False, learn_scale=True, shift_batch_norm=True)


def mislas(head: float, tail: float, factor: float, shift: bool, *, decay: float = 5e-4, **other: object) -> Published:
    """Stage two of MiSLAS."""
    values = {"batch": 128, "augmentation": "padded_crop"} | other
    loss = {"name": "label_aware_smoothing", "head_smoothing": head, "tail_smoothing": tail}
    classifier = RetrainSettings(head_factor=factor, shift_batch_norm=shift)
    return Published(
        10, decay=decay, rates=TEN_EPOCHS, sampler="class_aware", loss=loss, classifier=classifier, **values
    )


def class_balanced(name: str, **more: object) -> Published:
    loss = {"name": name, "weights": "class_balanced", "beta": 0.9999, "divide_by": "batch", "weights_from": 0}
    return Published(200, 128, 2e-4, STEEP_STEPS, loss=loss | more)


def decoupling(epochs: int, decay: float, colour: bool, rates: dict[int, float], **other: object) -> Published:
    augmentation = "resized_crop_colour" if colour else "resized_crop"
    return Published(epochs, 512, decay, rates, augmentation=augmentation, **other)


BIG = {"batch": 256, "augmentation": "resized_crop_colour"}
# a cosine has 1/4 of its height left after 2/3 of the way, 1/2 after 1/2, 3/4 after 1/3
NINETY = {0: 0.2, 30: 0.15, 45: 0.1, 60: 0.05}
FIVE = {0: 0.2, 1: 0.180902, 2: 0.130902, 3: 0.069098, 4: 0.019098}
TEN = {0: 0.2, 1: 0.1951, 2: 0.1809, 3: 0.1588, 4: 0.1309, 5: 0.1, 6: 0.0691, 7: 0.0412, 8: 0.0191, 9: 0.0049}
PUBLISHED = {
    "cifar10_lt_if100/cross_entropy": Published(200, 128, 2e-4, STEPS),
    "cifar100_lt_if100/cross_entropy": Published(200, 128, 2e-4, STEPS),
    **{f"{folder}/mislas_stage1": MIXUP_CIFAR for folder in CIFAR},
    "cifar10_lt_if100/mislas_stage2": mislas(0.3, 0.0, 0.5, False),
    "cifar10_lt_if50/mislas_stage2": mislas(0.2, 0.0, 0.2, False),
    "cifar10_lt_if10/mislas_stage2": mislas(0.1, 0.0, 0.2, False),
    "cifar100_lt_if100/mislas_stage2": mislas(0.4, 0.1, 0.2, True),
    "cifar100_lt_if50/mislas_stage2": mislas(0.3, 0.0, 0.1, True),
    "cifar100_lt_if10/mislas_stage2": mislas(0.2, 0.0, 0.1, True),
    "cifar10_lt_if100/mixup_crt": Published(10, 128, 5e-4, TEN_EPOCHS, sampler="class_aware", classifier=CRT),
    "cifar10_lt_if100/mixup_lws": Published(10, 128, 5e-4, TEN_EPOCHS, sampler="class_aware", classifier=LWS),
    "cifar10_lt_if100/ldam_drw": Published(200, 128, 2e-4, STEEP_STEPS, loss=LDAM_DRW),
    "cifar100_lt_if100/ldam_drw": Published(200, 128, 2e-4, STEEP_STEPS, loss=LDAM_DRW),
    "cifar10_lt_if100/class_balanced_softmax": class_balanced("cross_entropy"),
    "cifar10_lt_if100/class_balanced_sigmoid": class_balanced("sigmoid"),
    "cifar10_lt_if100/class_balanced_focal": class_balanced("sigmoid_focal", gamma=0.5),
    "cifar10_lt_if100/cdt": Published(200, 128, 2e-4, STEEP_STEPS, loss={"name": "cdt", "gamma": 0.3}),
    "cifar10_lt_if100/vs": Published(200, 128, 2e-4, STEEP_STEPS, loss={"name": "vs", "gamma": 0.2, "tau": 1.2}),
    "cifar10_lt_if100/logit_adjustment": Published(
        1241, 128, 2e-4, {9: 0.05, 19: 0.1, 603: 0.1, 604: 0.01, 925: 0.01, 926: 1e-3, 1127: 1e-3, 1128: 1e-4},
        nesterov=True, loss={"name": "logit_adjustment", "tau": 1.0},
    ),
    "cifar100_lt_if100/logit_adjustment": Published(
        1419, 128, 2e-4, {10: 0.05, 21: 0.1, 690: 0.1, 691: 0.01, 1058: 0.01, 1059: 1e-3, 1289: 1e-3, 1290: 1e-4},
        nesterov=True, loss={"name": "logit_adjustment", "tau": 1.0},
    ),
    "cifar10_lt_if100/autobalance": Published(200, 128, 1e-4, STEPS),
    "cifar100_lt_if100/autobalance": Published(
        200, 128, 1e-4, {0: 0.01, 4: 0.05, 9: 0.1, 159: 0.1, 160: 0.01, 179: 0.01, 180: 0.001}
    ),
    "imagenet_lt/mislas_stage1": Published(
        180, decay=5e-4, rates={0: 0.1, 60: 0.075, 90: 0.05, 120: 0.025}, mixup=0.2, **BIG
    ),
    "inaturalist2018/mislas_stage1": Published(
        200, decay=1e-4, rates={0: 0.1, 50: 0.0853553, 100: 0.05, 150: 0.0146447}, mixup=0.2, **BIG
    ),
    "places_lt/mislas_stage1": Published(
        90, decay=5e-4, rates={0: 0.1, 30: 0.075, 45: 0.05, 60: 0.025}, mixup=0.2, **BIG
    ),
    "imagenet_lt/mislas_stage2": mislas(0.3, 0.0, 0.05, True, **BIG),
    "inaturalist2018/mislas_stage2": mislas(0.3, 0.0, 0.05, True, decay=1e-4, **BIG),
    "places_lt/mislas_stage2": mislas(0.4, 0.1, 0.05, True, **BIG),
    "imagenet_lt/decoupling_stage1": decoupling(90, 5e-4, True, NINETY),
    "imagenet_lt/decoupling_crt": decoupling(10, 5e-4, True, TEN, sampler="class_aware", classifier=CRT),
    "imagenet_lt/decoupling_lws": decoupling(5, 5e-4, True, FIVE, sampler="class_aware", classifier=LWS),
    "inaturalist2018/decoupling_stage1": decoupling(90, 1e-4, False, NINETY),
    "inaturalist2018/decoupling_crt": decoupling(
        30, 1e-4, False, {0: 0.2, 10: 0.15, 15: 0.1, 20: 0.05}, sampler="class_aware", classifier=CRT
    ),
    "inaturalist2018/decoupling_lws": decoupling(5, 1e-4, False, FIVE, sampler="class_aware", classifier=LWS),
}  # fmt: skip


# of learning from unlabeled images: the loss of the labeled ones, and the method
SEMI = {
    "fixmatch": (CrossEntropySettings(), FixMatchSettings(unlabeled_ratio=2, threshold=0.95, unlabeled_weight=1.0)),
    "fixmatch_la": (LogitAdjustmentSettings(tau=1.0), FixMatchSettings(unlabeled_ratio=2, threshold=0.95)),
    "abc": (CrossEntropySettings(), AbcSettings(unlabeled_ratio=2, threshold=0.95, pseudo_labels="soft")),
    "daso": (
        CrossEntropySettings(),
        DasoSettings(
            unlabeled_ratio=2, threshold=0.95, queue_size=256, similarity_temperature=0.05,
            distribution_temperature=1.5, distribution_steps=100, alignment_weight=1.0, warmup_steps=5000,
        ),
    ),
    "crest_plus": (
        CrossEntropySettings(),
        CrestSettings(unlabeled_ratio=1, threshold=0.95, generations=6, quota=3.0, least_power=0.5),
    ),
    **{
        f"csst_{goal}": (
            CrossEntropySettings(),
            CsstSettings(
                unlabeled_ratio=4, goal=goal, coverage_floor=0.95, multiplier_rate=0.1, divergence=0.05,
            ),
        )
        for goal in ("min_recall", "coverage")
    },
}  # fmt: skip
# steps of one training
SEMI_STEPS = {"abc": 2**18, "daso": 2**18, "crest_plus": 64 * 1024}


def opened(name: str) -> tuple[TrainRecipe, TrainSettings]:
    recipe = load_recipe(RECIPES / f"{name}.toml", TrainRecipe, {})
    return recipe, train_settings(recipe)


def class_counts(folder: str) -> torch.Tensor:
    """Return the counts of a CIFAR-LT recipe's train."""
    spec = load_data_spec(RECIPES / folder / "data.toml")
    assert spec.longtail is not None
    return torch.tensor(spec.longtail.counts(10 if "cifar10_" in folder else 100)["train"])


def images_of(folder: str) -> int:
    counted = {"imagenet_lt": 115846, "places_lt": 62500, "inaturalist2018": 437513}
    return counted[folder] if folder in counted else CIFAR_SIZES[folder][0]


def test_every_file_is_known_here():
    files = {str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.toml")}
    data = {f"{folder}/data" for folder in [*CIFAR, *LARGE, "cifar10_lt_ssl"]}
    semi = {f"cifar10_lt_ssl/{name}" for name in ("data_uniform", "data_reversed", *SEMI)}
    assert files == PUBLISHED.keys() | data | semi | {"demo", "fashion_resnet32"}


def test_what_ships_runs_as_before():
    demo = load_recipe(RECIPES / "demo.toml", FinetuneRecipe, {})
    refine_settings(demo.stage2)
    _, settings = opened("fashion_resnet32")
    assert (settings.stage1.epochs, settings.stage1.nesterov, settings.stage1.mixup_alpha) == (200, True, 1.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_are_the_published_ones(name):
    published = PUBLISHED[name]
    settings = opened(name)[1]
    loop = settings.stage1
    assert (loop.epochs, loop.batch_size, loop.weight_decay) == (published.epochs, published.batch, published.decay)
    assert (loop.momentum, loop.nesterov, loop.decay_all) == (0.9, published.nesterov, True)
    assert (loop.mixup_alpha, loop.sampler) == (published.mixup, published.sampler)
    assert loop.augmentation == published.augmentation
    assert loop.crop_padding == (2 if "logit_adjustment" in name else 4)
    steps = images_of(name.split("/")[0]) // loop.batch_size
    rates = {
        epoch: learning_rate(loop, epoch=epoch, step=steps - 1, steps_per_epoch=steps) for epoch in published.rates
    }
    assert rates == pytest.approx(published.rates, rel=2e-3, abs=5e-5 if len(published.rates) == 10 else 1e-9)
    assert {key: getattr(settings.loss, key) for key in published.loss} == published.loss
    assert settings.classifier == published.classifier


@pytest.mark.parametrize("name", SEMI)
def test_the_settings_of_semi_supervised_learning_are_the_published_ones(name):
    recipe, settings = opened(f"cifar10_lt_ssl/{name}")
    loop = settings.stage1
    assert recipe.architecture == "wrn_28_2"
    assert (settings.loss, settings.semi) == SEMI[name]
    assert loop.epochs * settings.semi.steps_per_epoch == SEMI_STEPS.get(name, 2**20)
    assert (loop.batch_size, loop.momentum, loop.nesterov, loop.average_decay) == (64, 0.9, True, 0.999)
    assert (loop.weight_decay, loop.decay_all, loop.mixup_alpha, loop.crop_padding) == (5e-4, False, 0.0, 4)
    # 0.03 cos(7 pi t / 16 T): 7/16 of half a turn are 78.75 degrees, and 3/4 of that 59.0625
    ends = (loop.epochs * 3 // 4 - 1, loop.epochs - 1)
    rates = [learning_rate(loop, epoch=epoch, step=1023, steps_per_epoch=1024) for epoch in ends]
    assert rates == pytest.approx([0.03 * 0.514103, 0.03 * 0.195090], rel=1e-5)
    assert learning_rate(loop, epoch=0, step=0, steps_per_epoch=1024) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("name", "total", "ends"),
    [("data", 7443, (3000, 30)), ("data_uniform", 30000, (3000, 3000)), ("data_reversed", 7443, (30, 3000))],
)
def test_labeled_and_unlabeled_images_are_those_of_the_protocol(name, total, ends):
    spec = load_data_spec(RECIPES / "cifar10_lt_ssl" / f"{name}.toml")
    assert spec.semi is not None
    counts = spec.semi.counts(10)
    # int(1500 * 100^(-i / 9))
    assert counts["train"] == [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
    assert (counts["unlabeled"][0], counts["unlabeled"][-1]) == ends
    assert sum(counts["unlabeled"]) == total
    assert counts["val"] == [500] * 10
    # no class of CIFAR-10 has more than 5000
    assert max(map(sum, zip(*counts.values(), strict=True))) <= 5000


@pytest.mark.parametrize(("folder", "warmup", "cluster"), [("cifar10_lt_if100", 10, 1), ("cifar100_lt_if100", 40, 10)])
def test_the_search_of_a_loss_is_the_published_one(folder, warmup, cluster):
    recipe, _ = opened(f"{folder}/autobalance")
    assert recipe.val_fraction == 0.2
    loop = build_settings(SupervisedSettings, recipe.stage1 | recipe.search)
    assert (loop.epochs, loop.weight_decay, loop.batch_size) == (300, 1e-4, 128)
    ends = {epoch: learning_rate(loop, epoch=epoch, step=9, steps_per_epoch=10) for epoch in (219, 220, 260)}
    assert ends == pytest.approx({219: 0.1, 220: 0.01, 260: 0.001})
    found = build_settings(AutoBalanceSettings, recipe.autobalance)
    found.check_beside(loop)
    assert (set(found.learn), found.transform, found.cluster_size) == ({"offset", "scale"}, "sigmoid", cluster)
    assert (found.start_epoch, found.interval, found.val_batches, found.terms) == (120, 20, 10, 5)
    assert (found.momentum, found.weight_decay) == (0.9, 1e-4)
    # a linear warm-up from epoch 120 on; ours is a rate of Adam, 0.01 on both
    rates = {at: loss_learning_rate(found, at=at) for at in (120 + warmup / 4, 120 + warmup, 219, 220, 260)}
    expected = (0.0025, 0.01, 0.01, 0.001, 0.0001)
    assert list(rates.values()) == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "class_balanced" in name or "logit_adj" in name])
def test_the_warm_up_of_two_codes_goes_step_by_step(name):
    loop = opened(name)[1].stage1
    warmup = loop.warmup_epochs
    assert learning_rate(loop, epoch=0, step=0, steps_per_epoch=96) == pytest.approx(0.1 / warmup / 96)
    assert learning_rate(loop, epoch=2, step=47, steps_per_epoch=96) == pytest.approx(0.1 * 2.5 / warmup)


@pytest.mark.parametrize("folder", ["cifar10_lt_if100", "cifar100_lt_if100"])
def test_the_long_schedule_is_as_many_steps(folder):
    epochs = opened(f"{folder}/logit_adjustment")[1].stage1.epochs
    assert epochs * (images_of(folder) // 128) == pytest.approx(119_000, abs=500)


@pytest.mark.parametrize("folder", CIFAR)
def test_the_images_are_the_benchmark_s(folder):
    counts = class_counts(folder)
    assert (int(counts.sum()), int(counts.min())) == CIFAR_SIZES[folder]


@pytest.mark.parametrize("folder", CIFAR)
def test_the_smoothing_of_the_largest_and_the_smallest_class(folder):
    published = PUBLISHED[f"{folder}/mislas_stage2"].loss
    counts = class_counts(folder)
    objective = opened(f"{folder}/mislas_stage2")[1].loss.objective(counts)
    # with a logit 1 for the label and 0 elsewhere, smoothing adds epsilon (1 - 1/k) to the cross-entropy
    k = len(counts)
    ends = torch.tensor([0, k - 1])
    logits = torch.eye(k)[ends]
    added = objective.losses(logits, ends) - (math.log(math.e + k - 1) - 1)
    expected = [published["head_smoothing"], published["tail_smoothing"]]
    assert (added / (1 - 1 / k)).tolist() == pytest.approx(expected, abs=1e-5)


def test_deferred_weights_are_those_of_the_effective_number():
    objective = opened("cifar10_lt_if100/ldam_drw")[1].loss.objective(counts := class_counts("cifar10_lt_if100"))
    published = [0.05061, 0.0769, 0.12113, 0.19504, 0.31881, 0.52459, 0.86835, 1.44263, 2.40922, 3.99272]
    assert objective.class_weights.tolist() == pytest.approx(published, abs=1e-5)
    assert class_balanced_weights(counts, beta=0.9999).tolist() == pytest.approx(published, abs=1e-5)
    assert objective.weights_from == 160


@pytest.mark.parametrize("name", [*PUBLISHED, *(f"cifar10_lt_ssl/{name}" for name in SEMI)])
def test_every_reference_leads_somewhere(name):
    folder, stem = name.split("/")
    recipe, _ = opened(name)
    assert recipe.name == name.replace("/", "_")
    assert recipe.data == f"recipes/{folder}/data.toml"
    check_arch(recipe.architecture)
    if "/mislas_stage2" in name or recipe.classifier:
        before = re.fullmatch(r"runs/(.+)", recipe.start or "")
        assert before is not None
        earlier, _ = opened(before[1])
        same = ("architecture", "data", "input_size", "mean", "std", "trains")
        assert {key: getattr(earlier, key) for key in same} == {key: getattr(recipe, key) for key in same}
        assert not earlier.classifier
    elif recipe.start is not None:
        check_arch(recipe.start.removeprefix("timm:"))
        assert recipe.start == f"timm:{recipe.architecture}"
    header = "".join(line for line in (RECIPES / f"{name}.toml").read_text().splitlines() if line.startswith("# "))
    assert "Source: " in header
    assert f"selmix train recipes/{name}.toml --out runs/{name}" in header
    assert "docs/stage-one.md" in header
    page = (ROOT / "docs" / "stage-one.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `") and f"`{folder}`" in line)
    assert f"`{stem}`" in row


@pytest.mark.parametrize("folder", [*CIFAR, *LARGE, "cifar10_lt_ssl"])
def test_the_data_lie_in_one_folder(folder):
    spec: DataSpec = load_data_spec(RECIPES / folder / "data.toml")
    splits = [split for split in (spec.train, spec.val, spec.test) if split is not None]
    places = [split.list for split in splits] + [spec.root, (spec.source or ":").split(":")[1]]
    resolved = [(RECIPES / folder / place).resolve() for place in places if place]
    assert resolved
    assert all(path.is_relative_to(ROOT / "data") for path in resolved)


@pytest.mark.parametrize(("kind", "write"), [("cifar10", write_batches), ("cifar100", write_hundred)])
def test_a_recipe_finds_its_data_from_the_folder_above(tmp_path, monkeypatch, kind, write):
    folder = tmp_path / "recipes" / f"{kind}_lt_if10"
    folder.mkdir(parents=True)
    text = (RECIPES / folder.name / "data.toml").read_text()
    (folder / "data.toml").write_text(text.split("[longtail]")[0])  # 15 random images are no long tail
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    data = open_images(opened(f"{folder.name}/mislas_stage1")[0].data)
    assert (len(data.splits["train"].ids), len(data.class_names)) == (15, int(kind.removeprefix("cifar")))
