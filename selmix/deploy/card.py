"""The model card: what an exported classifier is for, how good it is and for whom, and how to open it."""

import html
import re
from typing import Any

from selmix.deploy.opening import Run
from selmix.deploy.parity import Parity
from selmix.deploy.sheets import printable
from selmix.deploy.snippets import snippet
from selmix.head_file import public_metric

_KINDS = {
    "head": "a linear head (weight and bias) for the features of a frozen backbone",
    "timm": "a timm model: backbone and tuned classifier in one checkpoint",
    "onnx": "an ONNX graph: backbone and tuned classifier, from normalised images to logits",
}
_MARKS = re.compile(r"([\\`*_\[\]|])")


def model_card(
    run: Run, kind: str, file: str, metadata: dict[str, Any], details: dict[str, Any], parity: Parity | None
) -> str:
    """Return the card of an exported file, in Markdown; it holds no paths but the file's name.

    Args:
        run: of the head.
        kind: the format.
        file: its name.
        metadata: in the file.
        details: of the format.
        parity: how the file compares with backbone and head; None for a head alone.
    """
    result = run.result
    split = "val" if result["optimistic"] else "test"
    code = snippet(kind, file, run.head.weight.shape[1], metadata, details)
    parts = [
        f"# {cell(file)}",
        f"This is {_KINDS[kind]}, tuned by selmix {result['versions']['selmix']} for "
        f"**{cell(public_metric(result['metric']))}** over {result['num_classes']} classes.",
        "## Intended use",
        "Naming the class of images like those that it was tuned on, as one of: "
        f"{', '.join(map(cell, run.class_names))}. An image of another class gets one of these names all the same.",
        *_data(result, metadata),
        *_results(result, split),
        *_classes(result, split),
        *_constraints(result),
        *_calibration(result),
        *_limits(result, split),
        "## How to load it",
        *_use(kind, metadata, details, parity),
        *_of_other_dtype(run, kind),
        f"```python\n{code}```",
        "## Provenance",
        *[f"- sha256 of the {name}: `{value}`" for name, value in result["digests"].items()],
        "- versions: " + ", ".join(f"{name} {value}" for name, value in result["versions"].items()),
        "## Licence",
        "To be filled in: that of the backbone's weights and that of the images both have a say.",
    ]
    return "\n\n".join(_joined(parts)) + "\n"


def _joined(parts: list[str]) -> list[str]:
    """Put the items of a list into one paragraph."""
    joined: list[str] = []
    for part in parts:
        if joined and part.startswith("- ") and joined[-1].startswith("- "):
            joined[-1] += f"\n{part}"
        else:
            joined.append(part)
    return joined


def cell(text: object) -> str:
    r"""Return text that Markdown and HTML take for nothing but text, in one line.

    >>> cell("a|b <i>")
    'a\\|b &lt;i&gt;'
    """
    return _MARKS.sub(r"\\\1", html.escape(" ".join(printable(str(text)).split()), quote=False))


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _data(result: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    splits = [name for name in ("train", "val", "test") if name in result["support"]]
    rows = [
        [cell(name), *(f"{result['support'][split][label]:,}" for split in splits)]
        for label, name in enumerate(result["class_names"])
    ]
    pool = result["support"]["unlabeled"]
    about = "Labels of train and val trained the head, those of val steered it; test was looked at once, at the end."
    if result["optimistic"]:
        about = "Labels of train and val trained the head, those of val steered it. There was no test split."
    backbone = metadata.get("backbone") or metadata.get("architecture")
    lines = (
        [f"The backbone is {cell(backbone)}, frozen."] if backbone else ["The backbone is not known: ready features."]
    )
    lines += [about, *([f"Besides there were {pool:,} unlabeled images."] if pool else [])]
    return ["## Data", " ".join(lines), _table(["images of class", *splits], rows)]


def _results(result: dict[str, Any], split: str) -> list[str]:
    intervals = result["interval"].get("after", {}).get(split, {})
    changes = result["interval"].get("change", {}).get(split, {})
    rows = []
    for name, after in result["after"][split].items():
        shown = cell(public_metric(name))
        row = [f"**{shown}**" if name == result["metric"] else shown]
        row += [_rate(result[head][split][name]) for head in ("before", "balanced")] + [_rate(after)]
        for own in (intervals, changes):
            row.append(" to ".join(_rate(end) for end in own[name]) if name in own else "")
        rows.append(row)
    note = (
        f"*Before* is the {result['before_is']}, *balanced* a head retrained with class-balanced sampling on the same "
        "labels."
    )
    if result["optimistic"]:
        note = f"**Optimistic**: there is no test split, and these figures, on val, steered the tuning. {note}"
    header = ["metric, %", "before", "balanced", "after", "95 % interval", "of the change"]
    return [f"## Results on {split}", note, _table(header, rows)]


def _classes(result: dict[str, Any], split: str) -> list[str]:
    recall = [result["recall"][head][split] for head in ("before", "balanced", "after")]
    rows = [[cell(name), *(_rate(own[label]) for own in recall)] for label, name in enumerate(result["class_names"])]
    return [f"## Recall of each class on {split}", _table(["class, %", "before", "balanced", "after"], rows)]


def _constraints(result: dict[str, Any]) -> list[str]:
    lines = []
    for own in result["constraints"]:
        verdict = "met" if own["met"] else "**not met**"
        test = "" if own["test"] is None else f", {own['test']:.4g} on test"
        lines.append(f"- {cell(own['expression'])}: {verdict} on val ({own['val']:.4g}{test})")
    return ["## Constraints", *(lines or ["None were asked for."])]


def _calibration(result: dict[str, Any]) -> list[str]:
    own = result["calibration"]
    temperature, errors = own["temperature"], []
    for split in (name for name in ("val", "test") if name in own):
        plain, calibrated = (_rate(own[split][name]["ece"]) for name in ("plain", "calibrated"))
        after = "" if temperature == 1 else f", {calibrated} % at temperature {temperature:.4g}"
        errors.append(f"on {split} {plain} % as it is{after}")
    about = (
        "The temperature is 1, so softmax(logits) stays as it is: the labels of val ask for no other, or do not tell."
        if temperature == 1
        else f"softmax(logits / {temperature:.4g}) is fitted to the labels of val, and so to its class shares."
    )
    return ["## Calibration", f"Expected calibration error: {'; '.join(errors)}. {about}"]


def _limits(result: dict[str, Any], split: str) -> list[str]:
    recall = [result["recall"][head][split] for head in ("before", "after")]
    falls = sorted(
        (after - before, name)
        for name, before, after in zip(result["class_names"], *recall, strict=True)
        if after is not None and after < before
    )
    lines = [f"{cell(name)} {100 * fall:+.1f}" for fall, name in falls[:8]]
    metric = cell(public_metric(result["metric"]))
    few = [name for name, count in zip(result["class_names"], result["support"][split], strict=True) if count < 30]
    return [
        "## Limits",
        f"- The head trades other classes for {metric}."
        + (f" Recall fell for: {', '.join(lines)} points." if lines else " No class lost recall."),
        "- Intervals cover the chance of the test images, not another backbone, split, camera or population.",
        "- Figures other than recalls depend on the class shares of the split they were measured on.",
        *([f"- Fewer than 30 images of {split} speak for: {', '.join(map(cell, few))}."] if few else []),
    ]


def _of_other_dtype(run: Run, kind: str) -> list[str]:
    if kind == "head" or run.dtype == "float32":
        return []
    return [
        f"- the head was tuned on features in {run.dtype}, and this file computes in float32: an image near a border "
        "may get another class than from `selmix predict` and in the figures above, which are those of the run"
    ]


def _use(kind: str, metadata: dict[str, Any], details: dict[str, Any], parity: Parity | None) -> list[str]:
    lines = []
    if kind == "onnx":
        lines.append(
            f"- opset {details['opset']}; input `{details['input']}` [b, 3, h, w], float32, any b; output "
            f"`{details['output']}` [b, k]; probabilities are softmax(logits / temperature)"
        )
    if "input_size" in metadata:
        lines.append(
            "- an image is RGB in [0, 1], {} pixels (height x width), resized ({}, crop_pct {:g}, crop mode {}); then "
            "minus mean {}, divided by std {}".format(
                "x".join(map(str, metadata["input_size"][1:])),
                metadata["interpolation"],
                metadata["crop_pct"],
                metadata["crop_mode"],
                metadata["mean"],
                metadata["std"],
            )
        )
    if parity is not None:
        lines.append(f"- {parity.words}")
    return lines
