"""Python that opens what was exported: for the model card, and run by a test."""

import json
from typing import Any

from selmix.backbones.models import OWN
from selmix.deploy.onnx_graph import INPUT, OUTPUT

_ABOUT = """\
with safe_open("{file}", "pt") as file:
    about = json.loads(file.metadata()["selmix"])
"""

_HEAD = (
    """\
import json

import torch
from safetensors import safe_open

"""
    + _ABOUT
    + """\
    weight, bias = file.get_tensor("weight"), file.get_tensor("bias")

features = torch.zeros(1, {width})  # of the backbone, before its classifier
probabilities = ((features @ weight.T + bias) / about["temperature"]).softmax(1)[0]
print(about["class_names"][int(probabilities.argmax())], float(probabilities.max()))
"""
)

_TRANSFORM = """\
transform = create_transform(
    input_size=tuple(about["input_size"]),
    mean=about["mean"],
    std=about["std"],
    crop_pct=about["crop_pct"],
    crop_mode=about["crop_mode"],
    interpolation=about["interpolation"],
    is_training=False,
)
"""

_TIMM = (
    """\
import json

import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import create_transform
{register}
"""
    + _ABOUT
    + """\
model = timm.create_model({create})
model.load_state_dict(load_file("{file}"), strict=True)
model.eval()
"""
    + _TRANSFORM
    + """
image = transform(Image.open("image.png").convert("RGB"))
with torch.inference_mode():
    probabilities = (model(image[None]) / about["temperature"]).softmax(1)[0]
print(about["class_names"][int(probabilities.argmax())], float(probabilities.max()))
"""
)

_ONNX = """\
import json
{imports}
session = onnxruntime.InferenceSession("{file}")
about = {{name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}}
{preprocess}
logits = session.run(["{output}"], {{"{input}": pixels}})[0]  # [b, k], for any b
probabilities = np.exp((logits - logits.max(1, keepdims=True)) / about["temperature"])[0]
probabilities /= probabilities.sum()
print(about["class_names"][int(probabilities.argmax())], float(probabilities.max()))
"""

_PLAIN = """\

image = Image.open("image.png").convert("RGB")
size = about["input_size"][1]
short = math.floor(size / about["crop_pct"])  # the shorter side, before the middle is cut out
width, height = (max(short, int(short * side / min(image.size))) for side in image.size)
image = image.resize((width, height), Image.Resampling.{interpolation})
left, top = round((width - size) / 2), round((height - size) / 2)
image = image.crop((left, top, left + size, top + size))
pixels = (np.asarray(image, dtype=np.float32) / 255 - np.float32(about["mean"])) / np.float32(about["std"])
pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # [b, 3, h, w]
"""


def snippet(kind: str, file: str, width: int, metadata: dict[str, Any], details: dict[str, Any]) -> str:
    """Return Python that opens an exported file and names the class of an image, with its calibrated probability.

    Args:
        kind: the format.
        file: its name.
        width: d.
        metadata: in the file.
        details: what builds the model, of a merged checkpoint.
    """
    if kind == "head":
        return _filled(_HEAD, file, width=width)
    if kind == "timm":
        options = dict(details["create_model"])
        name = options.pop("model_name")
        create = ", ".join([json.dumps(name), *(f"{key}={value!r}" for key, value in options.items())])
        register = f"\nimport selmix.backbones  # registers {name} with timm\n" if name in OWN else ""
        return _filled(_TIMM, file, create=create, register=register)
    names = {"input": INPUT, "output": OUTPUT}
    height, own_width = metadata["input_size"][1:]
    if metadata["crop_mode"] == "center" and height == own_width:
        interpolation = metadata["interpolation"].upper()
        imports = "import math\n\nimport numpy as np\nimport onnxruntime\nfrom PIL import Image\n"
        return _filled(_ONNX, file, imports=imports, preprocess=_PLAIN.format(interpolation=interpolation), **names)
    imports = (
        "\nimport numpy as np\nimport onnxruntime\nfrom PIL import Image\nfrom timm.data import create_transform\n"
    )
    opened = 'pixels = transform(Image.open("image.png").convert("RGB"))[None].numpy()  # [b, 3, h, w]\n'
    return _filled(_ONNX, file, imports=imports, preprocess=_TRANSFORM + opened, **names)


def _filled(text: str, file: str, **words: object) -> str:
    return text.format(file=json.dumps(file)[1:-1], **words)
