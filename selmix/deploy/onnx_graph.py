"""Backbone and head as an ONNX graph: normalised images to logits."""

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from selmix.backbones import Backbone
from selmix.errors import DataError, UsageError
from selmix.heads import LinearHead

OPSET = 18
INPUT, OUTPUT = "images", "logits"


def required() -> tuple[ModuleType, ModuleType]:
    """Return onnx and onnxruntime.

    Raises:
        UsageError: if they, or onnxscript, which PyTorch's exporter needs, are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the ONNX format needs {error.name}: pip install 'selmix[onnx]'") from error
    return onnx, onnxruntime


class _Classifier(nn.Module):
    """Images [b, 3, h, w] -> logits [b, k]."""

    def __init__(self, backbone: Backbone, head: LinearHead) -> None:
        super().__init__()
        self.backbone = backbone.model
        self.head = nn.Linear(head.weight.shape[1], head.num_classes)
        self.head.load_state_dict({"weight": head.weight, "bias": head.bias})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.backbone(images))
        return logits


def onnx_graph(backbone: Backbone, head: LinearHead, metadata: dict[str, Any]) -> bytes:
    """Return the graph, float32, for batches of any size; metadata go in as JSON, one property each.

    Raises:
        UsageError: without the packages.
        DataError: if PyTorch or ONNX cannot take the architecture.
    """
    onnx, _ = required()
    example = torch.zeros(2, *backbone.preprocessing["input_size"])
    # what exporter and architecture print and warn of is for their makers
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Classifier(backbone, head).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            assert program is not None
            graph = program.model_proto
            for part in (graph.graph, *graph.functions):
                _without_traces(part)
            for name, value in metadata.items():
                graph.metadata_props.add(key=name, value=json.dumps(value))
            onnx.checker.check_model(graph)
            content: bytes = graph.SerializeToString()
        except Exception as error:  # whatever a foreign architecture, or one of 2 GB and more, raises in them
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"{backbone.architecture} cannot be exported to ONNX ({reason}); take --format timm"
            ) from error
    return content


def _without_traces(graph: Any) -> None:
    """Remove what the exporter notes of the code behind each node: lines of files on this machine."""
    fields = (getattr(graph, name, ()) for name in ("node", "value_info", "initializer", "input", "output"))
    for part in (graph, *(part for parts in fields for part in parts)):
        if not isinstance(part, str):  # a function has names for inputs
            del part.metadata_props[:]
            part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _without_traces(inner)


def onnx_logits(content: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what onnxruntime makes of images, normalised [b, 3, h, w]: logits [b, k]."""
    _, onnxruntime = required()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has error types of its own, of no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"onnxruntime does not take the graph ({reason}); nothing was written") from error
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])
