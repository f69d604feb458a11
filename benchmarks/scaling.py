"""Time and memory over classes and samples, against a naive k^4 form and against bare matrix products.

    python benchmarks/scaling.py [--largest 8142] [--out docs/scaling]

Writes OUT.json and OUT.svg; docs/scaling.md reads them. Each ratio is of medians taken in turns in one run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import machine, median_seconds

from selmix.descent import cross_entropy_step_
from selmix.features.pool import Pool
from selmix.features.space import FeatureSpace
from selmix.features.statistics import class_means
from selmix.gains import gain_matrix
from selmix.pairs import ClassMembers, draw_pairs, pair_distribution
from selmix.stage2.batches import PairBatches

WIDTH = 2048
MIX = 0.8
NAIVE_UP_TO = 60  # 8 k^4 bytes: 100 MB
CLASSES = [10, 20, 40, 60, 100, 300, 1000, 3000, 8142]
SAMPLES = [10_000, 100_000, 1_000_000]
SHAPES = [(10, 64, 64, 1), (10, 64, 64, 6), (100, 512, 64, 6), (1000, WIDTH, 256, 1), (8142, WIDTH, 256, 1)]
MEMORY = """
import sys, torch
from selmix.gains import gain_matrix
k, d = int(sys.argv[1]), int(sys.argv[2])
gain_matrix(torch.randn(k, d).double() / d**0.5, torch.randn(k, d), None, torch.randn(k, k).double(), mix=0.8)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def naive_gains(means: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gains from the change of every logit of every class mean under every pair, [k, k, k, k]."""
    mixtures = MIX * means[:, None] + (1 - MIX) * means
    residual = torch.eye(len(means), dtype=means.dtype)[:, None] - (mixtures @ weight.T).softmax(2)
    change = (mixtures @ means.T)[..., None] * residual[:, :, None, :]
    return torch.einsum("ijml,ml->ij", change, gradient)


def gain_products(means: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> None:
    """Take the matrix products of the gains and nothing else."""
    square = means @ (means.T @ gradient)
    other = means @ weight.T
    for rows in square.split(max(1, (1 << 23) // len(square))):
        for factor in (square, other, other):
            rows @ factor.T


def over_classes(largest: int) -> list[dict[str, float]]:
    """Measure gains, pair law and a round's draw over k."""
    rows, threads = [], torch.get_num_threads()
    for num_classes in [count for count in CLASSES if count <= largest]:
        torch.set_num_threads(1 if num_classes <= 100 else threads)
        generator = torch.Generator().manual_seed(num_classes)
        means, weight = torch.randn(2, num_classes, WIDTH, dtype=torch.float64, generator=generator)
        means /= WIDTH**0.5
        gradient = torch.randn(num_classes, num_classes, dtype=torch.float64, generator=generator)
        gains = gain_matrix(means, weight, None, gradient, mix=MIX)
        law = pair_distribution(gains, inverse_temperature=10)
        works = [
            partial(gain_matrix, means, weight, None, gradient, mix=MIX),
            partial(gain_products, means, weight, gradient),
            partial(pair_distribution, gains, inverse_temperature=10),
            partial(draw_pairs, law, 3200, generator=generator),
        ]
        if num_classes <= NAIVE_UP_TO:
            works.append(partial(naive_gains, means, weight, gradient))
            assert torch.allclose(naive_gains(means, weight, gradient), gains, rtol=1e-8, atol=1e-10)
        repeats = 7 if num_classes <= 1000 else 5 if num_classes <= 3000 else 3
        names = ["gain_s", "gain_products_s", "law_s", "draw_s", "naive_s"]
        row = dict(zip(names, median_seconds(*works, repeats=repeats), strict=False))
        del gains, law, works
        child = subprocess.run(
            [sys.executable, "-c", MEMORY, str(num_classes), str(WIDTH)], capture_output=True, text=True, check=True
        )
        row |= {"k": num_classes, "repeats": repeats, "process_peak_gb": int(child.stdout) / 1e6}
        rows.append(row)
        print(json.dumps({name: round(value, 6) for name, value in row.items()}), flush=True)
    return rows


def over_shapes(largest: int) -> list[dict[str, float]]:
    """Measure the steps between two refreshes: pairs, gathering, mixing and descent, against their two products."""
    rows, threads = [], torch.get_num_threads()
    for num_classes, width, batch, heads in [shape for shape in SHAPES if shape[0] <= largest]:
        # one thread for small products, as the pipeline has it
        torch.set_num_threads(1 if num_classes * width * batch < 1 << 23 else threads)
        count, steps = max(2500, 2 * num_classes), 50 if num_classes <= 1000 else 5
        generator = torch.Generator().manual_seed(0)
        features, labels = torch.randn(count, width, generator=generator), torch.arange(count) % num_classes
        members = [ClassMembers.from_labels(labels, num_classes)] * heads
        batches = PairBatches(
            Pool(features), FeatureSpace.fit(features), members, batch, 0.6, generator, torch.zeros(num_classes)
        )
        law = torch.full((num_classes, num_classes), num_classes**-2.0, dtype=torch.float64)
        weights = torch.zeros(heads, num_classes, width + 1)
        given, (inputs, residual) = weights.clone(), next(iter(batches.draw(law, 1)))
        residual = residual.mT.expand(heads, -1, -1).contiguous()

        def loop(batches=batches, law=law, weights=weights, steps=steps) -> None:
            for inputs, targets in batches.draw(law, steps):
                cross_entropy_step_(weights, inputs, targets, rate=0.1, decay=1e-4)

        def step(weights=weights, inputs=inputs, residual=residual, steps=steps) -> None:
            for _ in range(steps):
                cross_entropy_step_(weights, inputs, residual.mT, rate=0.1, decay=1e-4)

        def products(weights=given, inputs=inputs, residual=residual, steps=steps) -> None:
            for _ in range(steps):
                torch.bmm(weights, inputs.mT)
                weights.baddbmm_(residual, inputs, alpha=1e-9)

        times = [seconds / steps for seconds in median_seconds(loop, step, products)]
        row = {"k": num_classes, "d": width, "b": batch, "heads": heads}
        row |= dict(zip(["loop_s", "step_s", "products_s"], times, strict=True))
        rows.append(row)
        print(json.dumps(row), flush=True)
    torch.set_num_threads(threads)
    return rows


def over_samples(largest: int) -> list[dict[str, float]]:
    """Measure over n, on a file of which nothing is in memory to begin with, what reads every sample."""
    rows, width, num_classes = [], 512, 100
    for count in [count for count in SAMPLES if count <= largest]:
        with tempfile.TemporaryFile() as file:
            file.truncate(count * width * 4)
            features = torch.from_numpy(np.memmap(file, np.float32, "c", shape=(count, width)))
            labels = torch.arange(count) % num_classes
            space, weight = FeatureSpace.fit(features), torch.zeros(num_classes, width + 1)
            members = [ClassMembers.from_labels(labels, num_classes)] * 6
            law = torch.full((num_classes, num_classes), num_classes**-2.0, dtype=torch.float64)
            generator = torch.Generator().manual_seed(0)
            batches = PairBatches(Pool(features), space, members, 64, 0.6, generator, torch.zeros(num_classes))
            works = [
                partial(FeatureSpace.fit, features),
                partial(class_means, features, labels, num_classes),
                partial(space.predict, weight, features),
                partial(ClassMembers.from_labels, labels, num_classes),
                lambda batches=batches, law=law: [None for _ in batches.draw(law, 50)],
            ]
            names = ["fit_s", "class_means_s", "predict_s", "members_s", "batch_s"]
            row = {"n": count, "d": width, "k": num_classes} | dict(
                zip(names, median_seconds(*works, repeats=5), strict=True)
            )
        row["batch_s"] /= 50
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def fitted(rows: list[dict[str, float]]) -> dict[str, float]:
    """Fit the time of the gains by c0 + c2 k^2 + c3 k^3, all >= 0 and with equal weight on every relative error."""
    from scipy.optimize import nnls

    classes, seconds = (np.array([row[name] for row in rows]) for name in ("k", "gain_s"))
    powers = np.stack([classes**0.0, classes**2.0, classes**3.0], axis=1)
    constants, _ = nnls(powers / seconds[:, None], np.ones(len(rows)))
    return dict(zip(("c0", "c2", "c3"), constants.tolist(), strict=True))


def plot(measured: dict, path: Path) -> None:
    """Draw time over k with the model, and time over n."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "selmix"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.5), layout="constrained")
    for name, label in (
        ("gain_s", "gain_matrix"), ("gain_products_s", "its matrix products"), ("naive_s", "naive k^4 form"),
        ("law_s", "pair_distribution"), ("draw_s", "draw_pairs, 3,200 pairs"),
    ):  # fmt: skip
        rows = [row for row in measured["classes"] if name in row]
        left.loglog([row["k"] for row in rows], [row[name] for row in rows], "o-", markersize=3, label=label)
    model, classes = measured["model"], np.geomspace(10, 1e5)
    seconds = model["c0"] + model["c2"] * classes**2 + model["c3"] * classes**3
    left.loglog(classes, seconds, "k:", label="model of gain_matrix (beyond the points: extrapolated)")
    left.set(xlabel=f"classes k (d = {WIDTH:,})", ylabel="seconds")
    for name, label in (
        ("fit_s", "FeatureSpace.fit"), ("class_means_s", "class_means"), ("predict_s", "predict, k = 100"),
        ("members_s", "ClassMembers, one head"), ("batch_s", "one step's batch, 6 heads of 64"),
    ):  # fmt: skip
        rows = measured["samples"]
        right.loglog([row["n"] for row in rows], [row[name] for row in rows], "o-", markersize=3, label=label)
    right.set(xlabel="samples n (d = 512, on a memory map)", ylabel="seconds")
    for axes in (left, right):
        axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, then write the figures and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=max(CLASSES), help="classes; the time grows as the cube")
    parser.add_argument("--samples", type=int, default=max(SAMPLES))
    parser.add_argument("--out", type=Path, default=Path("docs/scaling"))
    options = parser.parse_args()
    measured = {"machine": machine()}
    measured["samples"] = over_samples(options.samples)
    measured["steps"] = over_shapes(options.largest)
    measured["classes"] = over_classes(options.largest)
    measured["model"] = fitted(measured["classes"])
    options.out.with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    plot(measured, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
