"""What `benchmarks/fuzz.py` feeds: each target returns a reader of bytes, and valid inputs to start from."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Read = Callable[[bytes], object]


def metric(folder: Path) -> tuple[Read, list[bytes]]:
    """Read a metric or constraint, bind it to three classes, and evaluate it."""
    import torch

    from selmix.constraints.request import parse_constraint
    from selmix.metrics import MetricContext, parse_metric

    context = MetricContext(["cat", "big dog", "Käfer"], torch.tensor([50, 20, 2]), 1)
    confusion = torch.tensor([[5.0, 1.0, 0.0], [2.0, 4.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64) / 13

    def read(content: bytes) -> None:
        text = content.decode("utf-8", "replace")
        if re.search(r"[<>]=?", text):
            parse_constraint(text).bind(context)
        else:
            parse_metric(text).bind(context)(confusion)

    texts = ["min_recall", "0.5*mean_recall + 0.5*min(recall[cat], recall[1])", "recall[Käfer] >= 0.6"]
    texts += ["coverage >= 0.95/k", "mean(precision)/2 - 1e-3", "recall >= 0.3", "worst_group_recall", "my.py:score"]
    return read, [text.encode() for text in texts]


def words(folder: Path) -> tuple[Read, list[bytes]]:
    """Read what stands behind `--seeds`, `--metric`, `--input-size`, `--mean`, and `KEY=VALUE`."""
    from selmix.errors import SelmixError
    from selmix.option_words import parse_assignments, parse_metrics, parse_preprocessing, parse_seeds
    from selmix.recipe import pseudo_settings, refine_settings, stage_two_tables

    def read(content: bytes) -> None:
        text = content.decode("utf-8", "replace")
        readers: list[Callable[[str], object]] = [
            lambda own: parse_seeds(own) if len(own) < 6 else None,  # 0..999999 is a wish like any other
            parse_metrics,
            lambda own: parse_preprocessing(own, own, own),
            lambda own: settings(parse_assignments(own.split())),
        ]
        refused = []
        for reader in readers:
            try:
                reader(text)
            except SelmixError as error:
                refused.append(error)
        if len(refused) == len(readers):
            raise refused[0]

    def settings(values: dict[str, Any]) -> None:
        tables = stage_two_tables(values)
        refine_settings(tables["stage2"])
        pseudo_settings(tables["pseudo"])

    return read, [b"0..4", b"0,1,2", b"accuracy,min(recall)", b"96x128", b"0.5,0.5,0.5", b"steps=200 pseudo.bound=0.4"]


def recipe(folder: Path) -> tuple[Read, list[bytes]]:
    """Check a recipe or a data spec, as `selmix recipes validate` does."""
    from selmix.recipe_check import recipe_faults

    def read(content: bytes) -> None:
        refuse(recipe_faults(_written(folder / "recipe.toml", content)))

    return read, [path.read_bytes() for path in sorted((ROOT / "recipes").rglob("*.toml"))]


def manifest(folder: Path) -> tuple[Read, list[bytes]]:
    """Read a manifest with everything but the pixels."""
    from selmix.data.sources import open_images

    seeds = _rows(folder)
    return (lambda content: open_images(str(_written(folder / "data.csv", content)))), [
        ("path,label,split,group\n" + "".join(f"{path},{own},{split},g{own}\n" for path, own, split in seeds)).encode(),
        ("path,label\n" + "".join(f'"{path}",{own}\n' for path, own, _ in seeds)).encode(),
    ]


def parquet(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the bytes of a Parquet manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from selmix.data.sources import open_images

    paths, labels, splits = zip(*_rows(folder), strict=True)
    seeds = []
    for own in (pa.array(map(str, labels)), pa.array(labels), pa.array(map(str, labels)).dictionary_encode()):
        content = io.BytesIO()
        table = pa.table({"path": pa.array(paths), "label": own, "split": pa.array(splits)})
        pq.write_table(table, content, compression="none", store_schema=False)
        seeds.append(content.getvalue())
    return (lambda content: open_images(str(_written(folder / "data.parquet", content)))), seeds


def batches(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the bytes of a batch of CIFAR: a pickle."""
    import pickle

    import numpy as np

    from selmix.data.pickles import read_plain_pickle

    value = {b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [3, 1], "names": ["a", "b"]}
    return (lambda content: read_plain_pickle(content, "x")), [pickle.dumps(value, protocol=own) for own in (0, 2, 5)]


def ids(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the file of ids that a data spec names."""
    from selmix.data.sources import open_images

    rows = _rows(folder)
    (folder / "m.csv").write_text(
        "path,label,split\n" + "".join(f"{path},{own},{split}\n" for path, own, split in rows)
    )
    (folder / "data.toml").write_text('source = "m.csv"\nsplits = "ids.json"')

    def read(content: bytes) -> None:
        _written(folder / "ids.json", content)
        open_images(str(folder))

    return read, [b'{"splits": {"train": ["train/0.png", "train/1.png"], "val": ["val/2.png", "val/3.png"]}}']


def listing(folder: Path) -> tuple[Read, list[bytes]]:
    """Read a list file that a data spec names."""
    from selmix.data.sources import open_images

    seeds = _rows(folder)
    (folder / "data.toml").write_text('root = "."\n[train]\nlist = "train.txt"\n')

    def read(content: bytes) -> None:
        _written(folder / "train.txt", content)
        open_images(str(folder))

    return read, ["".join(f"{path} {own}\n" for path, own, _ in seeds).encode()]


def npz(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the bytes of an .npz of features."""
    import numpy as np

    from selmix.features.file import load_features

    def stored(kind: str) -> bytes:
        content = io.BytesIO()
        arrays = {"train_features": np.ones((6, 3), dtype=kind), "train_labels": np.arange(6) % 2}
        np.savez(content, **arrays, class_names=np.array(["a", "b"]))
        return content.getvalue()

    return (lambda content: load_features(_written(folder / "x.npz", content))), [stored("f4"), stored("f2")]


def arrays(folder: Path) -> tuple[Read, list[bytes]]:
    """Read a well-formed .npz of arrays that may be anything: names, types, shapes and values out of the bytes."""
    import numpy as np

    from selmix.features.file import load_features

    names = ["train_features", "train_labels", "val_features", "val_labels", "test_features", "test_labels"]
    names += ["class_names", "unlabeled_features", "unlabeled_labels", "train_groups", "group_names", "extra"]
    kinds = ["f4", "f2", "f8", "i8", "i4", "u1", "b1", "U3", "S3", "c8", "M8[s]"]

    def read(content: bytes) -> None:
        made, rest = {}, bytearray(content)

        def take() -> int:
            return rest.pop(0) if rest else 0

        for _ in range(take() % 9):
            name, kind = names[take() % len(names)], np.dtype(kinds[take() % len(kinds)])
            shape = tuple(take() % 7 for _ in range(take() % 4))
            size = int(np.prod(shape)) * kind.itemsize
            own = bytes(rest[:size]).ljust(size, b"\0")
            del rest[:size]
            if kind.kind == "U":
                own = (np.frombuffer(own, dtype="u4") % 0x300).astype("u4").tobytes()
            made[name] = np.frombuffer(own, dtype=kind).reshape(shape)
        np.savez(folder / "x.npz", **made)
        load_features(folder / "x.npz")

    features = bytes([0, 0, 2, 6, 2]) + bytes(48)
    labels = bytes([1, 3, 1, 6]) + b"".join(own.to_bytes(8, "little") for own in (0, 1, 0, 1, 0, 1))
    return read, [bytes([2]) + features + labels]


def sidecar(folder: Path) -> tuple[Read, list[bytes]]:
    """Read `cache.json` and the record of a block of a feature cache; a JSON object gets the seal that it needs."""
    import json

    from selmix.features.blocks import Torn, read_record, record_path, write_sealed
    from selmix.features.cache import FORMAT, SIDECAR, Identity, read_sidecar

    identity = Identity("backbone", "data", "float32")

    def read(content: bytes) -> None:
        block = content[:1] == b"b"
        path = record_path(folder, 0) if block else folder / SIDECAR
        try:
            document = json.loads(content[1:])
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            _written(path, content[1:])
        elif block:
            whole = {"key": "k", "rows": [2, 2], "block": f"{folder.name}/0"}
            write_sealed(path, whole | document)
        else:
            write_sealed(path, {"format": FORMAT, "key": identity.key, "identity": vars(identity)} | document)
        try:
            read_record(folder, 0, key="k", rows=2, width=2) if block else read_sidecar(folder).parts
        except Torn as error:  # what is torn is made anew
            refuse([str(error)])

    about = {"about": {}, "width": 2, "sizes": {"train": 2}, "class_names": ["a", "b"], "group_names": [], "files": {}}
    images = {"stamps": [None, [1, 2, 3]], "digests": ["d", None], "bad": {"1": "damaged"}}
    return read, [b"c" + json.dumps(about).encode(), b"b" + json.dumps({"images": images}).encode(), b"b[", b"c{}"]


def image(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the bytes of an image file."""
    import numpy as np
    from PIL import Image

    from selmix.data.images import FileImages

    def read(content: bytes) -> None:
        FileImages([_written(folder / "x.png", content)]).open(0)

    pixels, seeds = np.arange(192, dtype=np.uint8).reshape(8, 8, 3), []
    for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L"), ("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB")):
        content = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(content, kind)
        seeds.append(content.getvalue())
    for kind in ("TIFF", "PPM", "TGA", "ICO", "JPEG2000"):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, kind)
        seeds.append(content.getvalue())
    return read, seeds


def checkpoint(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the bytes of a PyTorch checkpoint."""
    import torch

    from selmix.checkpoints import read_state_dict

    content = io.BytesIO()
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 3)}, "epoch": 3, "lr": 0.1}, content)
    plain = _unpacked(content.getvalue())

    def read(content: bytes) -> None:
        # half of the cases are pickles inside a sound zip, which the bytes of a zip would hardly ever be
        own = _packed(plain | {"archive/data.pkl": content[1:]}) if content[:1] < b"\x80" else content[1:]
        read_state_dict(_written(folder / "x.pth", own))

    return read, [b"\x00" + plain["archive/data.pkl"], b"\xff" + content.getvalue()]


def safetensors(folder: Path) -> tuple[Read, list[bytes]]:
    """Read the bytes of a safetensors file, with its metadata."""
    import torch

    from selmix.checkpoints import packed_tensors, read_metadata, read_state_dict

    def read(content: bytes) -> None:
        path = _written(folder / "x.safetensors", content)
        read_state_dict(path)
        read_metadata(path)

    return read, [packed_tensors({"fc.weight": torch.ones(2, 3)}, {"class_names": ["a", "b"], "score": 0.5})]


TARGETS = [metric, words, recipe, manifest, parquet, listing, ids, npz, arrays, sidecar, image, batches, checkpoint]
TARGETS += [safetensors]


def refuse(faults: list[str]) -> None:
    """Raise the faults that a reader has collected, as its command does."""
    from selmix.errors import DataError

    if faults:
        raise DataError("; ".join(faults))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _rows(folder: Path) -> list[tuple[str, int, str]]:
    """Make a few empty files, which are enough where pixels are not read."""
    rows = [(f"{split}/{number}.png", number % 2, split) for split in ("train", "val") for number in range(4)]
    for path, _, _ in rows:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    return rows


def _unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _packed(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, own in members.items():
            archive.writestr(name, own)
    return content.getvalue()
