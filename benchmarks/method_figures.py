"""The pictures of docs/method.md: three classes in the plane, tuned for the worst recall by selmix itself.

    python benchmarks/method_figures.py [--seed 0] [--out docs/figures]

Writes method-toy.svg (the borders before and after, and the loop in between) and method-gain.svg (from the confusion
matrix to the gains of the pairs, and what a step on the best pair does). Prints the numbers that the page quotes.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selmix.baselines.retrain import RetrainSettings, retrain_heads
from selmix.confusion import confusion_counts, joint_confusion, recall, row_normalised
from selmix.features.labeled import FeatureData, LabeledFeatures
from selmix.features.pool import Pool
from selmix.features.statistics import class_means
from selmix.gains import gain_matrix
from selmix.heads import LinearHead
from selmix.metrics import METRICS, logit_gradient
from selmix.pairs import ClassMembers, pair_distribution
from selmix.pipeline import Tuning, tune
from selmix.seeding import torch_generator
from selmix.stage2.refine import TEMPERATURE
from selmix.stage2.settings import RefineSettings

NAMES = ["head", "medium", "tail"]
CENTRES = np.array([[-1.2, -0.4], [1.2, -0.4], [0.0, 1.1]])
COUNTS = {"train": (600, 90, 15), "val": (60, 60, 60), "test": (3000, 3000, 3000)}
SETTINGS = RefineSettings()
MIX = (1 + SETTINGS.mix_low) / 2  # the mean of the coefficient
RATE, SMALL_RATE = 1.0, 1e-4  # of the step that is drawn, and of those that are measured
LOOKS = [("tab:blue", "o"), ("tab:orange", "s"), ("tab:green", "^")]


def toy(seed: int) -> FeatureData:
    """Return unit Gaussians around three centres in the plane, of which train has ever fewer."""
    rng = np.random.default_rng(seed)

    def split(counts: tuple[int, ...]) -> LabeledFeatures:
        labels = np.repeat([0, 1, 2], counts)
        points = CENTRES[labels] + rng.standard_normal((len(labels), 2))
        return LabeledFeatures(torch.from_numpy(points).float(), torch.from_numpy(labels))

    splits = {name: split(counts) for name, counts in COUNTS.items()}
    return FeatureData(NAMES, splits, ids={name: list(map(str, range(sum(COUNTS[name])))) for name in splits})


def linear_probe(split: LabeledFeatures, seed: int) -> LinearHead:
    """Return the head that SGD finds on train as it comes: `before`."""
    members = ClassMembers.from_labels(split.labels, 3)
    settings, generator = RetrainSettings(steps=SETTINGS.start_steps), torch_generator(seed, "probe")
    (head,) = retrain_heads(Pool(split.features), [members], sampling_power=1, settings=settings, generator=generator)
    return head


def soft_confusion(head: LinearHead, split: LabeledFeatures) -> torch.Tensor:
    """Return the joint confusion matrix of softened predictions, as the loop takes it for its gains."""
    probabilities = (head.logits(split.features) / TEMPERATURE).softmax(1).double()
    return torch.stack([probabilities[split.labels == label].sum(0) for label in range(3)]) / len(split.labels)


def stepped(head: LinearHead, means: torch.Tensor, kept: int, partner: int, rate: float) -> LinearHead:
    """Return the head after a step of SGD on the mixture of two class means, with the label of the first."""
    mixture = MIX * means[kept] + (1 - MIX) * means[partner]
    residual = torch.eye(3)[kept] - head.logits(mixture[None])[0].softmax(0)
    return LinearHead(head.weight + rate * torch.outer(residual, mixture), head.bias + rate * residual)


def regions(axes: Axes, head: LinearHead, *, filled: bool, style: str = "-") -> None:
    """Draw where a head predicts which class: where its logit is above the largest other one."""
    across = torch.linspace(-4, 4, 81)
    logits = head.logits(torch.cartesian_prod(across, across)).view(81, 81, 3).transpose(0, 1)
    for label, (colour, _) in enumerate(LOOKS):
        lead = logits[..., label] - logits[..., [other for other in range(3) if other != label]].amax(2)
        if filled:
            axes.contourf(across, across, lead, levels=[0, 1e9], colors=[colour], alpha=0.15)
        axes.contour(across, across, lead, levels=[0], colors="black", linewidths=1, linestyles=style)


def picture(axes: Axes, head: LinearHead, data: FeatureData, title: str) -> None:
    """Draw a head's regions with some test samples, and its recalls on all of them."""
    regions(axes, head, filled=True)
    test = data.splits["test"]
    found = recall(joint_confusion(confusion_counts(test.labels, head.predict(test.features), 3)))
    for label, (colour, marker) in enumerate(LOOKS):
        points = test.features[test.labels == label][:80]
        name = f"{NAMES[label]}: {100 * found[label]:.1f} %"
        axes.scatter(*points.T, s=9, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    axes.set(title=title, xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    axes.legend(
        loc="lower center",
        fontsize=7,
        title="recall on test",
        title_fontsize=7,
        ncols=3,
        handletextpad=0,
        columnspacing=1,
    )
    print(title, [round(100 * float(value), 1) for value in found])


def loop(axes: Axes, tuned: Tuning) -> None:
    """Draw the metric on the evidence over the steps, and the step that was chosen."""
    history = tuned.refined.history
    steps = [record["step"] for record in history]
    axes.plot(steps, [100 * record["metric"] for record in history], color="black", linewidth=1)
    axes.axvspan(0.75 * tuned.refined.steps, tuned.refined.steps, color="0.9")
    axes.axvline(tuned.refined.best_step, color="black", linestyle=":")
    axes.set(title="the loop", xlabel="step", ylabel="min_recall out of fold, %")
    axes.annotate("chosen", (tuned.refined.best_step, axes.get_ylim()[0]), xytext=(-4, 4), ha="right",
                  textcoords="offset points", fontsize=8)  # fmt: skip


def table(axes: Axes, values: torch.Tensor, title: str, ylabel: str, xlabel: str, digits: int) -> None:
    """Draw a matrix as a heat map with its numbers."""
    largest = float(values.abs().amax())
    axes.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest, alpha=0.6)
    for (row, column), value in np.ndenumerate(values.numpy()):
        axes.text(column, row, f"{value:z.{digits}f}", ha="center", va="center", fontsize=9)
    axes.set(title=title, xticks=range(3), yticks=range(3), xlabel=xlabel, ylabel=ylabel)
    axes.set_xticklabels(NAMES, fontsize=8)
    axes.set_yticklabels(NAMES, fontsize=8, rotation=90, va="center")


def step_on(axes: Axes, head: LinearHead, means: torch.Tensor, kept: int, partner: int) -> None:
    """Draw the mixture of a pair and the borders before and after a step on it."""
    regions(axes, head, filled=False, style=":")
    regions(axes, stepped(head, means, kept, partner, RATE), filled=True)
    for label, (colour, marker) in enumerate(LOOKS):
        axes.scatter(
            *means[label], s=60, color=colour, marker=marker, edgecolors="black", label=f"mean of {NAMES[label]}"
        )
    axes.plot(*means[[kept, partner]].T, color="black", linewidth=0.8)
    axes.scatter(*(MIX * means[kept] + (1 - MIX) * means[partner]), s=90, color="black", marker="*", label="mixture")
    axes.set(title=f"5  a step on ({NAMES[kept]}, {NAMES[partner]})", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    axes.legend(fontsize=7, loc="lower center", ncols=2)


def compared(axes: Axes, gains: torch.Tensor, measured: torch.Tensor) -> None:
    """Draw what small steps did to the rounded metric of all validation samples, against the gains of the pairs."""
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.axvline(0, color="0.8", linewidth=0.8)
    axes.scatter(gains, measured, color="black", s=12)
    for kept, partner in (gains > 0.1 * gains.max()).nonzero().tolist():  # the others lie on top of each other
        place = float(gains[kept, partner]), float(measured[kept, partner])
        name = f"{NAMES[kept]}, {NAMES[partner]}"
        axes.annotate(
            name, place, xytext=(-4, (-11, 5, -3)[partner]), ha="right", textcoords="offset points", fontsize=8
        )
    axes.set(title="6  measured on samples", xlabel="gain of (i, j)", ylabel="change of the metric / rate")
    axes.margins(0.15)


def main() -> None:
    """Tune, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    words = parser.parse_args()
    torch.set_num_threads(1)
    data = toy(words.seed)
    before, val = linear_probe(data.splits["train"], words.seed), data.splits["val"]
    tuned = tune(replace(data, head=before), METRICS["min_recall"], SETTINGS, seed=words.seed)

    psi = METRICS["min_recall"].objective(torch.bincount(val.labels).double(), SETTINGS.rounding)
    confusion = soft_confusion(before, val)
    gradient = logit_gradient(psi, confusion)
    means = class_means(val.features, val.labels, 3).float()
    gains = gain_matrix(means, before.weight, before.bias, gradient, mix=MIX)
    law = pair_distribution(gains, inverse_temperature=SETTINGS.inverse_temperature)
    measured = torch.empty_like(gains)
    for pair in np.ndindex(3, 3):
        moved = soft_confusion(stepped(before, means, *pair, SMALL_RATE), val)
        measured[pair] = (psi(moved) - psi(confusion)) / SMALL_RATE
    for name, values in {
        "S": row_normalised(confusion),
        "M": gradient,
        "G": gains,
        "law": law,
        "did": measured,
    }.items():
        print(name, [[round(float(value), 3) for value in row] for row in values])
    print("correlation", float(torch.corrcoef(torch.stack([gains.flatten(), measured.flatten()]))[0, 1]))

    # text stays text and the same numbers give the same bytes
    with mpl.rc_context(
        {"svg.hashsalt": "selmix", "svg.fonttype": "none", "font.size": 9, "path.simplify_threshold": 1.0}
    ):
        figure = Figure(figsize=(11, 4), layout="constrained")
        left, right, third = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
        picture(left, before, data, "before: linear probe")
        picture(right, tuned.head, data, "after: tuned for min_recall")
        loop(third, tuned)
        figure.savefig(words.out / "method-toy.svg", metadata={"Date": None})

        figure = Figure(figsize=(11, 6.8), layout="constrained")
        panels = figure.subplots(2, 3).ravel()
        table(panels[0], row_normalised(confusion), "1  rows of the confusion matrix, S", "label", "prediction", 2)
        table(panels[1], gradient, "2  gradient in logit space, M", "class m", "logit l", 3)
        table(panels[2], gains, "3  gain of every pair, G", "i, keeps its label", "j, partner", 3)
        table(panels[3], law, "4  law over pairs", "i, keeps its label", "j, partner", 3)
        step_on(panels[4], before, means, *divmod(int(gains.clone().fill_diagonal_(-1).argmax()), 3))
        compared(panels[5], gains, measured)
        figure.savefig(words.out / "method-gain.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
