"""Files of others must not run code, take memory, or lead out of the data; ours must not tell whose they are."""

import ast
import gzip
import html
import io
import json
import multiprocessing
import os
import pickle
import resource
import runpy
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import Trap, noise_image, write_backbone_folder, write_image_folder, write_images
from deployed import COUNTS, quick_finetune, run, write_striped
from PIL import Image
from test_cifar import write_batches

import selmix
from selmix.checkpoints import read_state_dict
from selmix.data import cifar_sheets
from selmix.data.arrays import read_npz
from selmix.data.images import FileImages
from selmix.data.listing import DATA_ROOTS
from selmix.data.packed import MOST_INFLATED
from selmix.data.pickles import read_plain_pickle
from selmix.data.sources import open_images, survey_images
from selmix.errors import DataError, SelmixError

PACKAGE = Path(selmix.__file__).parent
MIB = 2**20

# module -> what it may do, and why
ALLOWED = {
    "data/pickles.py": {"pickle.Unpickler": "of CIFAR's published batches; its find_class knows arrays alone"},
    "metrics/user.py": {
        "exec": "runs the file that a user names by --metric FILE.py:FUNCTION, as an import would",
        "SourceFileLoader": "reads the same file",
    },
    "commands/__init__.py": {"import_module": "of the verbs, by names that stand in the code"},
}
_RUNNING = {"eval", "exec", "compile", "__import__", "SourceFileLoader", "exec_module", "import_module", "run_path"}
_RUNNING |= {"run_module", "read_pickle"}
_FORMATS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "runpy", "jsonpickle"}
_HARMLESS = {"pickle.UnpicklingError", "re.compile", "torch.compile"}


def dangers(source: str) -> set[str]:
    """Return what in a module could run what stands in a file."""
    found, names = set(), {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            called = _full_name(node, names)
            if called in _HARMLESS:
                continue
            module = called.partition(".")[0]
            if called in ("os.system", "os.popen") or (module in _FORMATS and called != module):
                found.add(called)
            elif called.rpartition(".")[2] in _RUNNING and not _is_method(node, names):
                found.add(called.rpartition(".")[2])
        if isinstance(node, ast.Call):
            called = _full_name(node.func, names)
            given = {own.arg: getattr(own.value, "value", ...) for own in node.keywords}
            if called in ("torch.load", "torch.jit.load", "torch.hub.load") and given.get("weights_only") is not True:
                found.add(called)
            if given.get("allow_pickle", False) is not False or given.get("weights_only", True) is not True:
                found.add(called)
    return found


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _is_method(node: ast.expr, names: dict[str, str]) -> bool:
    """Return whether the name is an attribute of an object, not of a module: `model.eval`."""
    while isinstance(node, ast.Attribute):
        node = node.value
        if isinstance(node, ast.Name):
            return node.id not in names
    return not isinstance(node, ast.Name)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_runs_what_stands_in_a_file(path):
    assert dangers(path.read_text()) == set(ALLOWED.get(path.relative_to(PACKAGE).as_posix(), {}))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch.load(path)", "torch.load"),
        ("import torch\ntorch.load(path, weights_only=False)", "torch.load"),
        ("import torch\ntorch.load(path, weights_only=careful)", "torch.load"),
        ("import torch as t\nt.load(path)", "torch.load"),
        ("from torch import load\nload(path)", "torch.load"),
        ("from torch import load as read\nread(path)", "torch.load"),
        ("import torch\ntorch.jit.load(path)", "torch.jit.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "numpy.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=trusted)", "numpy.load"),
        ("import pickle\npickle.loads(content)", "pickle.loads"),
        ("import pickle as p\nread = p.load", "pickle.load"),
        ("from pickle import loads\nloads(content)", "pickle.loads"),
        ("def f():\n    import joblib\n    joblib.load(path)", "joblib.load"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("from pandas import read_pickle\nread_pickle(path)", "read_pickle"),
        ("eval(text)", "eval"),
        ("run = exec\nrun(text)", "exec"),
        ("code = compile(text, '', 'eval')", "compile"),
        ("import builtins\nbuiltins.eval(text)", "eval"),
        ("import os\nos.system(text)", "os.system"),
    ],
)
def test_a_planted_offender_is_found(source, name):
    assert dangers(source) == {name}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "model.eval()\nself.model.eval()",
        "import re\nre.compile('a')",
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
    ],
)
def test_what_is_harmless_is_let_pass(source):
    assert dangers(source) == set()


def refused(*words) -> str:
    """Return the one line with which the command line refuses bad data."""
    code, _, stderr = run(*words)
    assert code == 3, stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    return stderr


WRITERS = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "bare pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_malicious_checkpoint_does_nothing(tmp_path, suffix, writer, nested):
    path, mark = tmp_path / f"net{suffix}", tmp_path / "mark"
    trap = {"conv.weight": torch.zeros(2), "trap": Trap(mark)}
    WRITERS[writer]({"epoch": 1, "state_dict": trap} if nested else trap, path)
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    data = write_image_folder(tmp_path / "data", {"train": {"a": 2, "b": 2}, "val": {"a": 2, "b": 2}})
    words = ("--data", data, "--arch", "cifar_resnet20", "--metric", "min_recall", "--out", tmp_path / "out")
    assert path.name in refused("finetune", "--backbone", path, *words)
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    torch.load(path, weights_only=False) if writer != "bare pickle" else pickle.loads(path.read_bytes())
    assert mark.exists(), "the trap does not work"


def test_a_malicious_npz_does_nothing(tmp_path):
    path, mark = tmp_path / "f.npz", tmp_path / "mark"
    np.savez(path, train_features=np.array([[Trap(mark)]], dtype=object), train_labels=np.array([0]))
    words = ("--features", path, "--metric", "min_recall", "--out", tmp_path / "out")
    assert "it holds Python objects" in refused("finetune", *words)
    assert not mark.exists()
    with np.load(path, allow_pickle=True) as archive:
        archive["train_features"]
    assert mark.exists(), "the trap does not work"


def test_malicious_batches_of_cifar_do_nothing(tmp_path):
    mark = tmp_path / "mark"
    root = write_batches(tmp_path, lambda value: pickle.dumps(value | {b"trap": Trap(mark)}))
    words = ("--backbone", "shipped:fashion_resnet32", "--metric", "min_recall", "--out", tmp_path / "out")
    assert "it names pathlib.Path" in refused("finetune", "--data", f"cifar10:{root}", *words)
    assert not mark.exists()


def test_postscript_under_the_name_of_an_image_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    path = tmp_path / "x.png"
    noise_image(1).save(path, "EPS")
    with pytest.raises(DataError, match="no image in a format that is known"):
        FileImages([path]).open(0)


def _in_child(read, path, answer):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    try:
        read(path)
        said = "accepted"
    except SelmixError as error:
        said = str(error)
    answer.put((said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def refusal_and_memory(read, path) -> tuple[str, float]:
    """Read a file in a process of its own; return what is said of it, and by how many MiB memory grew."""
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_in_child, args=(read, path, answer))
    process.start()
    process.join(120)
    assert process.exitcode == 0, f"it hung, or took too much memory: exit code {process.exitcode}"
    return answer.get(timeout=1)


def _zeros(path: Path, name: str, head: bytes = b"") -> Path:
    """Add one member to a zip: more zeros than any file may inflate to, in a few hundred kilobytes."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as file:
        file.write(head)
        for _ in range(MOST_INFLATED // MIB + 1):
            file.write(bytes(MIB))
    assert path.stat().st_size < 4 * MIB
    return path


def npz_bomb(folder: Path) -> Path:
    header = io.BytesIO()
    shape = ((MOST_INFLATED + MIB) // 1024 // 4, 1024)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return _zeros(folder / "x.npz", "train_features.npy", header.getvalue())


def packed_checkpoint(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1)}, folder / "x.pth")
    return _zeros(folder / "x.pth", "x/data/9")


def repeating_tensor(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1).expand(10**5, 10**5)}, folder / "x.pth")
    return folder / "x.pth"


def png(width: int, height: int, *, rows: int, mode: int = 2) -> bytes:
    """Return a PNG of black rows, of which as many are there as asked for; mode 2 is RGB, 3 a palette."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    line = bytes(1 + width * (3 if mode == 2 else 1))
    pixels = b"".join(packer.compress(line) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3)) if mode == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def giant_header(folder: Path) -> Path:
    (folder / "x.png").write_bytes(png(10**5, 10**5, rows=1))
    return folder / "x.png"


def black_image(folder: Path) -> Path:
    """Return an image below Pillow's limit that would take a gigabyte and more."""
    (folder / "x.png").write_bytes(png(13_000, 13_000, rows=13_000, mode=3))
    assert (folder / "x.png").stat().st_size < 2 * MIB
    return folder / "x.png"


def long_parquet(folder: Path) -> Path:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3_000_000, np.int32)), pa.array(["a.png"]))
    pq.write_table(pa.table({"path": column, "label": column}), folder / "m.parquet")
    return folder / "m.parquet"


def wide_parquet(folder: Path) -> Path:
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array(["a" * MIB]))
    pq.write_table(pa.table({"path": words, "label": words}), folder / "m.parquet", compression="zstd")
    return folder / "m.parquet"


def packed_archive(folder: Path) -> Path:
    with gzip.open(folder / "x.tgz", "wb", compresslevel=1) as file:
        for _ in range(cifar_sheets.MOST_UNPACKED // MIB + 1):
            file.write(bytes(MIB))
    return folder / "x.tgz"


def far_memo(folder: Path) -> Path:
    (folder / "x").write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**30) + b".")
    return folder / "x"


def empty_claim(folder: Path) -> Path:
    """Return a pickle of an array without content, of 30 GB."""
    content = pickle.dumps(np.zeros(0, np.uint8), protocol=2).replace(b"K\x00\x85", b"J\xff\xff\xff\x6f\x85", 1)
    (folder / "x").write_bytes(content)
    return folder / "x"


def first_image(path: Path) -> None:
    FileImages([path]).open(0).load()


def faults_of(path: Path) -> None:
    """Raise the faults that a data set has, if it has any."""
    findings = survey_images(str(path))[1]
    raise DataError("; ".join(finding.message for finding in findings))


def plain_pickle(path: Path) -> None:
    read_plain_pickle(path.read_bytes(), str(path))


def unfolding(depth: int, width: int) -> bytes:
    """Return a pickle of a dictionary whose key, a tuple of tuples, unfolds to width ** depth objects."""
    key: tuple = ()
    for _ in range(depth):
        key = (key,) * width
    body = pickle.dumps([key], protocol=2)  # a list, as nobody could make the dictionary
    assert body.startswith(b"\x80\x02]")
    assert body.endswith(b"a.")
    return b"\x80\x02}" + body[5:-2] + b"K\x01s."


def unfolding_batches(path: Path) -> Path:
    (path / "batch").write_bytes(unfolding(40, 2))
    return path / "batch"


def many_keys(path: Path) -> Path:
    """Write a pickle of 500 kB that puts one tuple of 100,000 objects into a dictionary 100,000 times."""
    (path / "batch").write_bytes(b"\x80\x02}(" + b"N" * 100_000 + b"tq\x000" + b"h\x00Ns" * 100_000 + b".")
    return path / "batch"


def deep_batches(path: Path) -> Path:
    (path / "batch").write_bytes(b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.")
    return path / "batch"


def wide_checkpoint(path: Path) -> Path:
    torch.save({"a": torch.ones(1)}, path / "plain.pth")
    with zipfile.ZipFile(path / "plain.pth") as plain, zipfile.ZipFile(path / "x.pth", "w") as archive:
        for name in plain.namelist():
            content = unfolding(4, 200) if name.endswith("data.pkl") else plain.read(name)
            archive.writestr(name, content)
    return path / "x.pth"


def old_checkpoint(path: Path) -> Path:
    torch.save({}, path / "x.pth", _use_new_zipfile_serialization=False)
    empty = b"\x80\x02}q\x00."
    content = (path / "x.pth").read_bytes()
    assert content.count(empty) == 1
    (path / "x.pth").write_bytes(content.replace(empty, unfolding(40, 2)))
    return path / "x.pth"


BOMBS = {
    "npz": (npz_bomb, read_npz, "must not inflate to more than 256 MiB or 100 times its size, got"),
    "packed checkpoint": (packed_checkpoint, read_state_dict, "must not inflate to more than 256 MiB or 100 times"),
    "repeating tensor": (repeating_tensor, read_state_dict, "got 40000000000 bytes of"),
    "image header": (giant_header, first_image, "10000000000 pixels"),
    "black image": (black_image, first_image, "its 169000000 pixels must not inflate to more than 256 MiB"),
    "rows": (long_parquet, faults_of, "has 3000000 rows in"),
    "words": (wide_parquet, faults_of, "must not inflate to more than 256 MiB"),
    "archive": (packed_archive, faults_of, "must not inflate to more than 16 MiB, and does"),
    "memo": (far_memo, plain_pickle, "it numbers objects that it does not have"),
    "unfolding key": (unfolding_batches, plain_pickle, "it nests tuples beyond reason"),
    "many keys": (many_keys, plain_pickle, "it nests tuples beyond reason"),
    "deep key": (deep_batches, plain_pickle, "it nests tuples beyond reason"),
    "wide key": (wide_checkpoint, read_state_dict, "holds more than plain tensors, or is damaged"),
    "unfolding key of old": (old_checkpoint, read_state_dict, "holds more than plain tensors, or is damaged"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(cifar_sheets, "MOST_UNPACKED", 16 * MIB)
    write, read, rule = BOMBS[name]
    said, grown = refusal_and_memory(read, write(tmp_path))
    assert rule in said
    assert grown < 100


def test_an_array_takes_what_its_content_takes_whatever_it_claims(tmp_path):
    said, grown = refusal_and_memory(plain_pickle, empty_claim(tmp_path))
    assert said == "accepted" or "no pickle of plain arrays" in said
    assert grown < 100


def test_what_is_large_and_not_packed_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(MIB))
    assert len(read_npz(tmp_path / "x.npz")["a"]) == MIB
    Image.new("RGB", (8000, 8000)).save(tmp_path / "x.png")  # 64 million pixels in 200 kB
    assert FileImages([tmp_path / "x.png"]).open(0).size == (8000, 8000)


@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.zeros(2, device="meta"),
        lambda: torch.zeros(9, 9).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
    ],
    ids=["without storage", "sparse", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_no_array_of_numbers_is_refused(tmp_path, tensor):
    torch.save({"a": tensor()}, tmp_path / "x.pth")
    with pytest.raises(DataError):
        read_state_dict(tmp_path / "x.pth")


DEEP = b"[" * 100_000
LONG = "9" * 5000  # more digits than Python turns into an integer


def test_a_document_nested_without_end_is_a_typed_error(tmp_path):
    write_backbone_folder(tmp_path / "net")
    (tmp_path / "net" / "manifest.json").write_bytes(DEEP)
    data = write_image_folder(tmp_path / "data", {"train": {"a": 2, "b": 2}, "val": {"a": 2, "b": 2}})
    words = ("--data", data, "--metric", "min_recall", "--out", tmp_path / "out")
    assert "manifest.json is not readable" in refused("finetune", "--backbone", tmp_path / "net", *words)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.json").write_bytes(DEEP)
    words = ("--features", tmp_path / "cache", "--metric", "min_recall", "--out", tmp_path / "out")
    assert "cache.json is damaged" in refused("finetune", *words)
    (tmp_path / "ids.json").write_bytes(DEEP)
    (tmp_path / "data.toml").write_text('source = "data"\nsplits = "ids.json"')
    assert "no file of splits" in refused("finetune", "--backbone", "shipped:fashion_resnet32", "--data",
                                          tmp_path / "data.toml", *words[2:])  # fmt: skip


def test_a_number_of_thousands_of_digits_is_a_typed_error(tmp_path):
    (tmp_path / "r.toml").write_text(f"seed = {LONG}")
    code, _, stderr = run("recipes", "validate", tmp_path / "r.toml")
    assert code == 2
    assert "it is no TOML, exceeds the limit (4300 digits)" in stderr
    np.savez(tmp_path / "f.npz", train_features=np.eye(4), train_labels=np.arange(4) % 2)
    words = ("--features", tmp_path / "f.npz", "--metric", "min_recall", "--out", tmp_path / "out")
    assert run("finetune", *words, f"steps={LONG}")[0] == 2


@pytest.fixture
def outside(tmp_path):
    """Return a folder of images that nobody named; beside it is `data`, with images of its own."""
    write_images(tmp_path / "private", 2)
    write_images(tmp_path / "data" / "own", 2)
    return tmp_path / "private"


def manifest_of(folder: Path, name: str, form: str) -> Path:
    """Write rows of two own images, and one by the name given, and return what --data takes."""
    rows = [("own/0.png", 0), ("own/1.png", 1), (name, 0)]
    if form == "manifest":
        (folder / "m.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
        return folder / "m.csv"
    (folder / "l.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
    (folder / "data.toml").write_text('[train]\nlist = "l.txt"\n')
    return folder


@pytest.mark.parametrize("form", ["manifest", "list"])
@pytest.mark.parametrize("name", ["../private/0.png", "own/../../private/0.png", "{}/0.png", "//{}/0.png"])
def test_a_path_that_leads_out_of_the_data_is_refused_unless_allowed(outside, monkeypatch, form, name):
    spec = str(manifest_of(outside.parent / "data", name.format(outside), form))
    with pytest.raises(DataError, match=rf"lead out of the data, the first is .*{DATA_ROOTS}=.*/private, or `root` in"):
        open_images(spec)
    monkeypatch.setenv(DATA_ROOTS, os.pathsep.join(["/nowhere", str(outside) + "x"]))
    assert [finding.kind for finding in survey_images(spec)[1]] == ["path outside"]
    for allowed in (outside, outside.parent, "/"):
        monkeypatch.setenv(DATA_ROOTS, os.pathsep.join(["/nowhere", str(allowed)]))
        open_images(spec).splits["train"].images.open(2)


@pytest.mark.parametrize("form", ["manifest", "list"])
def test_a_path_that_stays_within_the_data_is_no_stray(outside, form):
    folder = outside.parent / "data"
    write_images(folder / "more" / "..images", 1)
    for name in (f"{folder}/more/..images/0.png", "more/../more/..images/0.png", "./own/../more/..images/0.png"):
        assert len(open_images(str(manifest_of(folder, name, form))).splits["train"].ids) == 3


def test_a_root_and_a_rewrite_of_a_data_spec_are_permissions(outside):
    base = outside.parent
    (base / "data" / "m.csv").write_text(f"path,label\n{base}/data/own/0.png,a\n{outside}/0.png,b\n")
    spec = base / "data" / "spec.toml"
    spec.write_text('root = ".."\n[train]\nmanifest = "m.csv"')
    assert len(open_images(str(spec)).splits["train"].ids) == 2
    (base / "data" / "l.txt").write_text("old/0.png 0\nold/1.png 1\n")
    spec.write_text(f'[train]\nlist = "l.txt"\nrewrite = ["old/", "{outside}/"]')
    assert open_images(str(spec)).splits["train"].ids == [f"{outside}/0.png", f"{outside}/1.png"]
    spec.write_text(f'[train]\nlist = "l.txt"\nrewrite = ["old/", "{outside}/"]\n')
    (base / "data" / "l.txt").write_text("old/0.png 0\nold/../secret.png 1\n")
    with pytest.raises(DataError, match="line 2: paths that lead out of the data"):
        open_images(str(spec))


def test_pools_and_images_to_predict_are_kept_within_their_folders_as_well(outside, tmp_path):
    from selmix.data.unlabeled import with_pool
    from selmix.deploy.images import named_images

    (tmp_path / "data" / "pool.txt").write_text("own/0.png\n../private/0.png\n")
    (tmp_path / "data" / "p.csv").write_text("path\nown/0.png\n../private/0.png\n")
    data = open_images(str(write_image_folder(tmp_path / "x", {"train": {"a": 2, "b": 2}})))
    for pool in ("pool.txt", "p.csv"):
        with pytest.raises(DataError, match="lead out of the data"):
            with_pool(data, str(tmp_path / "data" / pool))
    for skip in (False, True):
        with pytest.raises(DataError, match="lead out of the data"):
            named_images([str(tmp_path / "data" / "p.csv")], skip_bad=skip)


def test_a_link_is_followed_as_the_page_says(outside):
    folder = outside.parent / "data"
    (folder / "link").symlink_to(outside)
    assert len(open_images(str(manifest_of(folder, "link/0.png", "manifest"))).splits["train"].ids) == 3
    assert "Links on the disk are followed" in (PACKAGE.parent / "docs" / "data.md").read_text()


TOKEN = "thisnameisprivate"
EVIL = "<script>alert(1)<"  # no file's name has a slash
FILES = {"head": "head.safetensors", "timm": "whole.safetensors", "onnx": "graph.onnx"}


def test_what_is_exported_names_no_folder_of_its_maker(tmp_path, monkeypatch):
    place = tmp_path / TOKEN
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "own.py").write_text("def worst(C):\n    return (C.diagonal() / C.sum(1)).min()\n")
    shutil.copytree(PACKAGE.parent / "pretrained" / "fashion_resnet32", place / "net")
    data = write_striped(place / "data", COUNTS)
    words = ("--backbone", place / "net", "--data", data, "--cache", place / "cache", "--dtype", "float32")
    quick_finetune(*words, "--metric", f"{place}/own.py:worst", "--out", place / "run")
    assert TOKEN in (place / "run" / "result.json").read_text()
    out = tmp_path / "out"
    out.mkdir()
    for kind, name in FILES.items():
        code, _, stderr = run("export", place / "run", "--format", kind, "--out", out / name)
        assert code == 0, stderr
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) >= 2 * len(FILES)  # each with its card
    for path in written:
        content = path.read_bytes()
        for word in (TOKEN, str(Path.home()), str(PACKAGE.parent), str(tmp_path)):
            assert word.encode() not in content, f"{path.name} names {word}"


def test_the_page_of_a_run_escapes_the_names_of_files_and_classes(tmp_path):
    data = write_striped(tmp_path / "data", COUNTS)
    for number, path in enumerate(sorted((data / "test").rglob("*.png"))):
        path.rename(path.with_name(f"{EVIL}{number}.png"))
    for split in COUNTS:
        (data / split / "ant").rename(data / split / EVIL)
    words = ("--backbone", "shipped:fashion_resnet32", "--data", data, "--cache", tmp_path / "cache")
    quick_finetune(*words, "--metric", "min_recall", "--out", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert EVIL not in page
    assert page.count("<script") == 1
    shown = html.escape(EVIL)
    assert f"{shown}/{shown}" in page, "no file's name is on the page"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["class_names"][0] == EVIL


AUDITED = [{"name": "sound", "version": "1", "vulns": []}, {"name": "unknown", "skip_reason": "not found"}]
HIT = {"name": "faulty", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("", 0, "nothing was audited, the service does not answer here"),
        (json.dumps({"dependencies": AUDITED[1:]}), 0, "nothing was audited, the service knows none of the 1 packages"),
        (json.dumps({"dependencies": AUDITED}), 0, "0 known vulnerabilities in 1 packages"),
        (json.dumps({"dependencies": [*AUDITED, HIT]}), 1, "faulty 2: CVE-1, mended in 2.1"),
    ],
)
def test_the_audit_fails_for_a_known_vulnerability_alone(answer, code, said):
    script = PACKAGE.parent / ".ci" / "audit.py"
    if not script.is_file():
        pytest.skip("no checkout")
    found, lines = runpy.run_path(str(script))["verdict"](answer)
    assert found == code
    assert said in lines[0] + lines[-1]
