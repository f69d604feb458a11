"""A run as one file to deploy, and a model card beside it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selmix.backbones import Backbone
from selmix.checkpoints import file_digest, packed_tensors
from selmix.deploy.card import model_card
from selmix.deploy.merged import load_merged, merged_state
from selmix.deploy.onnx_graph import INPUT, OPSET, OUTPUT, onnx_graph, onnx_logits, required
from selmix.deploy.opening import Run, backbone_of
from selmix.deploy.parity import Logits, Parity, compare, sample_pixels
from selmix.deploy.sheets import check_target
from selmix.errors import DataError, UsageError, suggestion
from selmix.extraction import plain_preprocessing
from selmix.head_file import backbone_metadata
from selmix.writing import write_atomically

ENDINGS = {"head": ".safetensors", "timm": ".safetensors", "onnx": ".onnx"}


def check_export(kind: str, out: Path, *, overwrite: bool) -> None:
    """Refuse what cannot be exported, before a backbone is opened.

    Raises:
        UsageError: for an unknown format, another ending, a file that is there, or packages that are missing.
    """
    if kind not in ENDINGS:
        raise UsageError(f"there is no format {kind!r}: {suggestion(kind, ENDINGS)}")
    if out.suffix.lower() != ENDINGS[kind]:
        raise UsageError(f"--out of the format {kind} must end in {ENDINGS[kind]}, got {out}")
    for path in (out, card_of(out)):
        check_target(path, overwrite=overwrite)
    if kind == "onnx":
        required()


def card_of(out: Path) -> Path:
    """Return the file of the model card beside an exported file."""
    return out.with_name(f"{out.name}.md")


def export_run(
    run: Run,
    kind: str,
    out: Path,
    *,
    backbone: str | None = None,
    arch: str | None = None,
    images: Sequence[str] = (),
) -> dict[str, Any]:
    """Export the head of a run, alone or with its backbone, and write the card; return what was written.

    Args:
        run: opened.
        kind: `head`, `timm` or `onnx`; checked, as is `out`.
        out: the file.
        backbone: where the backbone lies now, if it was moved.
        arch: of a checkpoint that does not say it.
        images: to compare on, as for `predict`; some of the run's, if not given.

    Raises:
        UsageError: if the format does not suit the run or its architecture.
        DataError: if the backbone is gone or another one, or the exported file is not the same classifier: no file is
            left then.
    """
    parity: Parity | None = None
    details: dict[str, Any] = {}
    if kind == "head":
        metadata = run.metadata
        content = packed_tensors({"weight": run.head.weight, "bias": run.head.bias}, metadata)
    else:
        net = backbone_of(run, backbone, arch=arch)
        pixels = sample_pixels(run, net, images)
        metadata = run.metadata | backbone_metadata(net.architecture, plain_preprocessing(net))
        content, details, exported = (_timm if kind == "timm" else _onnx)(run, net, metadata)
        parity = compare(net, run.head, exported, pixels)
    card = model_card(run, kind, out.name, metadata, details, parity)
    try:
        write_atomically(out, content)
        write_atomically(card_of(out), card)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); name another --out") from error
    return {
        "schema": 1,
        "command": "export",
        "format": kind,
        "run": str(run.folder),
        "out": str(out),
        "card": str(card_of(out)),
        "bytes": len(content),
        "sha256": file_digest(out),
        "parity": parity and asdict(parity) | {"words": parity.words},
        **details,
    }


_Exported = tuple[bytes, dict[str, Any], Logits]


def _timm(run: Run, net: Backbone, metadata: dict[str, Any]) -> _Exported:
    """Return the merged checkpoint, what builds its model, and the model, built anew from the bytes."""
    state, options = merged_state(net, run.head)
    content, count = packed_tensors(state, metadata), run.head.num_classes
    details = {"create_model": {"model_name": net.architecture, "num_classes": count, **options}}
    return content, details, load_merged(content, net.architecture, count, options)


def _onnx(run: Run, net: Backbone, metadata: dict[str, Any]) -> _Exported:
    """Return the graph, its names, and what onnxruntime makes of the bytes."""
    content = onnx_graph(net, run.head, metadata)
    return content, {"opset": OPSET, "input": INPUT, "output": OUTPUT}, onnx_logits(content)
