"""Whether this machine can: each part is tried with a tiny operation whose answer is known.

Nothing heavy is imported before it is tried, so that a broken installation is a finding and no traceback.
"""

import importlib
import importlib.metadata
import io
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "warning", "problem"]

_PYTHON = (3, 11)
_LITTLE_DISK, _LITTLE_MEMORY = 2e9, 2e9  # bytes
_OPTIONAL = {"onnx": "onnx", "onnxruntime": "onnx", "onnxscript": "onnx", "tensorboard": "tensorboard"}


@dataclass(frozen=True)
class Finding:
    """What was tried, whether it works, what was seen, and what to do if it does not."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Try every part that selmix rests on; one that fails does not keep the others from being tried."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", _python),
        ("torch and torchvision", _pair),
        ("devices", _devices),
        ("torchvision", _torchvision),
        ("timm", _timm),
        ("faiss", _faiss),
        ("images", _images),
        ("files", _files),
        ("figures", _figures),
        ("scikit-learn", _sklearn),
        ("worker processes", _workers),
        ("threads", _threads),
        ("memory", _memory),
        ("disk", _disk),
        ("extras", _extras),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # whatever a broken library throws is what we want to know
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            yield Finding(name, "problem", said, "reinstall what the message names: pip install --force-reinstall ...")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _expect(right: bool, name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, "ok", detail) if right else Finding(name, "problem", f"{detail}: a wrong answer", remedy)


def _python() -> Iterator[Finding]:
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info < _PYTHON:
        yield Finding("python", "problem", detail, "selmix needs Python 3.11 or newer")
    else:
        yield Finding("python", "ok", detail)


def _pair() -> Iterator[Finding]:
    """Compare the torch that is installed with the one that torchvision was built for: it says so itself."""
    torch, vision = _version("torch"), _version("torchvision")
    if torch is None or vision is None:
        missing = "torch" if torch is None else "torchvision"
        yield Finding(
            "torch and torchvision", "problem", f"{missing} is not installed", "pip install torch torchvision"
        )
        return
    detail = f"torch {torch}, torchvision {vision}"
    needed = [
        found[1]
        for requirement in importlib.metadata.requires("torchvision") or []
        if (found := re.match(r"torch\s*\(?==\s*([\w.]+)", requirement))
    ]
    if needed and needed[0].split("+")[0] != torch.split("+")[0]:
        remedy = f"pip install 'torch=={needed[0]}', or the torchvision of torch {torch.split('+')[0]}: pip install -U "
        yield Finding(
            "torch and torchvision",
            "problem",
            f"{detail}, which was built for torch {needed[0]}: its operators will be missing",
            remedy + "--force-reinstall torch torchvision",
        )
    else:
        yield Finding("torch and torchvision", "ok", detail)


def _devices() -> Iterator[Finding]:
    """A convolution of ones with ones counts the nine numbers under it."""
    import torch

    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    names += ["mps"] * torch.backends.mps.is_available()
    for name in names:
        try:
            ones = torch.ones(1, 1, 5, 5, device=name)
            made = torch.nn.functional.conv2d(ones, torch.ones(1, 1, 3, 3, device=name)).cpu()
            what = torch.cuda.get_device_name(name) if name.startswith("cuda") else platform.processor() or "any"
            right = made.shape == (1, 1, 3, 3) and bool((made == 9).all())
            yield _expect(right, f"device {name}", f"{what}, convolution", f"leave {name} aside: --device cpu")
        except Exception as error:  # a driver may fail in any way
            status: Status = "problem" if name == "cpu" else "warning"
            yield Finding(f"device {name}", status, " ".join(str(error).split())[:200], "take --device cpu")


def _torchvision() -> Iterator[Finding]:
    """Of two boxes that nearly cover each other non-maximum suppression keeps the better one."""
    remedy = "torch and torchvision do not fit: pip install -U --force-reinstall torch torchvision"
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    except (ImportError, RuntimeError, AttributeError) as error:
        yield Finding("torchvision", "problem", " ".join(str(error).split())[:200], remedy)
        return
    yield _expect(kept == [1, 2], "torchvision", f"{torchvision.__version__}, non-maximum suppression", remedy)


def _timm() -> Iterator[Finding]:
    import timm
    import torch

    from selmix.backbones.models import build_model

    model = build_model("cifar_resnet20", num_classes=0).eval()
    with torch.inference_mode():
        shape = tuple(model(torch.zeros(2, 3, 32, 32)).shape)
    yield _expect(shape == (2, 64), "timm", f"{timm.__version__}, a small backbone", "pip install -U timm")


def _faiss() -> Iterator[Finding]:
    import numpy as np

    from selmix.neighbours import faiss_or_none

    faiss = faiss_or_none()
    if faiss is None:
        remedy = "" if sys.platform == "darwin" else "pip install faiss-cpu"
        yield Finding("faiss", "ok" if not remedy else "warning", "neighbours are searched by PyTorch, slower", remedy)
        return
    index = faiss.IndexFlatIP(3)
    index.add(np.eye(3, dtype=np.float32))
    _, found = index.search(np.array([[0.1, 0.2, 0.9]], dtype=np.float32), 2)
    yield _expect(found.tolist() == [[2, 1]], "faiss", f"{faiss.__version__}, search", "pip install -U faiss-cpu")


def _images() -> Iterator[Finding]:
    import PIL
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 8), (10, 200, 30)).save(file, "JPEG", quality=95)
    red, green, blue = Image.open(file).convert("RGB").getpixel((8, 4))  # type: ignore[misc]
    right = abs(red - 10) < 8 and abs(green - 200) < 8 and abs(blue - 30) < 8
    yield _expect(right, "pillow", f"{PIL.__version__}, a JPEG written and read", "pip install -U pillow")


def _files() -> Iterator[Finding]:
    import numpy as np
    import pyarrow
    import safetensors.numpy
    from pyarrow import csv

    saved = safetensors.numpy.load(safetensors.numpy.save({"a": np.arange(3)}))
    version = _version("safetensors")
    yield _expect(
        saved["a"].tolist() == [0, 1, 2], "safetensors", f"{version}, round trip", "pip install -U safetensors"
    )
    rows = csv.read_csv(io.BytesIO(b"path,label\na.jpg,cat\n")).to_pylist()
    right = rows == [{"path": "a.jpg", "label": "cat"}]
    yield _expect(right, "pyarrow", f"{pyarrow.__version__}, a manifest of one row", "pip install -U pyarrow")


def _figures() -> Iterator[Finding]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure, file = Figure(), io.StringIO()
    figure.subplots().plot([0, 1])
    figure.savefig(file, format="svg")
    right = "</svg>" in file.getvalue()
    yield _expect(right, "matplotlib", f"{mpl.__version__}, a figure", "pip install -U matplotlib")


def _sklearn() -> Iterator[Finding]:
    import sklearn
    from sklearn.metrics import balanced_accuracy_score

    value = float(balanced_accuracy_score([0, 0, 0, 1], [0, 0, 0, 0]))
    yield _expect(value == 0.5, "scikit-learn", f"{sklearn.__version__}, a metric", "pip install -U scikit-learn")


class _Squares:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> int:
        return number**2


def _workers() -> Iterator[Finding]:
    import torch
    from torch.utils.data import DataLoader

    remedy = "images are decoded in one process; in a container give it more shared memory (--shm-size 1g)"
    try:
        loader: Any = DataLoader(
            _Squares(),  # type: ignore[arg-type]
            batch_size=2,
            num_workers=2,
            timeout=60,
            generator=torch.Generator(),
        )
        made = [value for batch in loader for value in batch.tolist()]
    except (RuntimeError, OSError) as error:
        yield Finding("worker processes", "warning", " ".join(str(error).split())[:200], remedy)
        return
    yield _expect(made == [0, 1, 4, 9], "worker processes", "two started and answered", remedy)


def _threads() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, said = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    detail = f"PyTorch uses {threads} on {cores} core(s)" + (f", OMP_NUM_THREADS={said}" if said else "")
    if threads > cores:
        yield Finding("threads", "warning", detail, f"more threads than cores are slow: OMP_NUM_THREADS={cores}")
    else:
        yield Finding("threads", "ok", detail)


def _memory() -> Iterator[Finding]:
    import psutil

    from selmix.features.disk import shown_bytes

    memory = psutil.virtual_memory()
    detail = f"{shown_bytes(memory.available)} of {shown_bytes(memory.total)} are free"
    little = memory.available < _LITTLE_MEMORY
    yield Finding("memory", "warning" if little else "ok", detail, "close other programs" * little)


def _disk() -> Iterator[Finding]:
    from selmix.features.cache import cache_root

    yield _folder("feature cache", cache_root(), "problem", "name another folder: SELMIX_CACHE, or --cache")
    yield _folder("current folder", Path.cwd(), "warning", "name a folder elsewhere: --out")


def _folder(name: str, folder: Path, worst: Status, remedy: str) -> Finding:
    from selmix.features.disk import shown_bytes

    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(name, worst, f"{folder} cannot be written ({error.strerror})", remedy)
    free = shutil.disk_usage(there).free
    little = free < _LITTLE_DISK
    return Finding(name, "warning" if little else "ok", f"{folder}, {shown_bytes(free)} free", remedy * little)


def _extras() -> Iterator[Finding]:
    for package, extra in _OPTIONAL.items():
        version = _version(package)
        detail = f"not installed, and needed for {extra} alone: pip install 'selmix[{extra}]'"
        yield Finding(package, "ok", version or detail)
