"""`selmix check`: every fault that is built on disk is found under its name, and a clean data set has none."""

import ast
import csv
import io
import json
import re
import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_commands import run

import selmix
from selmix.check.reading import read_images
from selmix.check.report import check_data
from selmix.data.images import ArrayImages, ImageSplit
from selmix.errors import DataError

SIZE = 24


def picture(seed: int, *, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Return an image unlike every other: like photographs, brightness says more than colour, and both are smooth."""
    rng = np.random.default_rng(seed)
    shape = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    tint = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(shape.convert("RGB"), tint, 0.3)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    tmp_path, seed = tmp_path_factory.mktemp("clean"), 0
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(12):
                picture(seed).save(tmp_path / "data" / split / name / f"{index}.png")
                seed += 1
    (tmp_path / "data" / "unlabeled").mkdir()
    for index in range(4):
        picture(seed + index).save(tmp_path / "data" / "unlabeled" / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def root(clean, tmp_path):
    """Return a clean data set: two classes, 12 images of each in three splits, 4 unlabeled ones."""
    return shutil.copytree(clean, tmp_path / "data")


def kinds(root) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.kind, finding.split) for finding in check_data(str(root), workers=0).findings]


def one(root):
    """Return the only finding."""
    findings = check_data(str(root), workers=0).findings
    assert len(findings) == 1, findings
    return findings[0]


def test_a_clean_data_set_has_no_findings(root):
    code, stdout, _ = run("check", root)
    assert code == 0
    assert "0 error(s), 0 warning(s)" in stdout
    assert "nothing is wrong" in stdout
    assert "unlabeled: 4 images" in stdout
    document = json.loads(run("check", root, "--json")[1])
    assert document["findings"] == document["fixes"] == document["notes"] == []
    row = {"train": 12, "val": 12, "test": 12, "group": "tail"}  # fewer than 20 in train
    assert document["classes"] == [{"class": "ant", **row}, {"class": "bee", **row}]
    assert document["splits"]["val"] == {"images": 24, "imbalance_factor": 1}


def _bomb() -> bytes:
    """Return a PNG that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def _jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _jpeg(picture(900), exif=exif)


def _animated() -> bytes:
    file = io.BytesIO()
    picture(901).save(file, "GIF", save_all=True, append_images=[picture(902)])
    return file.getvalue()


def _float() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "severity", "kind", "said"),
    [
        (b"", "error", "empty file", "zero bytes"),
        (b"<html>not found</html>", "error", "unreadable image", "no image in a format that is known"),
        (_jpeg(picture(903, size=(64, 64)))[:-40], "error", "truncated image", "truncated"),
        (_bomb(), "error", "decompression bomb", "3600000000 pixels"),
        (_float(), "error", "unreadable image", "floating-point"),
        (_jpeg(picture(904, size=(7, 30))), "warning", "small image", "7 x 30"),
        (_jpeg(picture(905, size=(65, 16))), "warning", "long image", "65 x 16"),
        (_jpeg(Image.new("RGB", (SIZE, SIZE), "red")), "warning", "blank image", "one colour"),
        (_turned(), "warning", "turned image", "EXIF orientation 6"),
        (_animated(), "warning", "animated image", "several frames"),
    ],
)
def test_a_bad_image_is_found_in_its_split_and_class(root, content, severity, kind, said):
    place = root / "val" / "bee" / "13.jpg"
    place.write_bytes(content)
    found = check_data(str(root), workers=0).findings
    first = next(finding for finding in found if finding.kind == kind)
    assert (first.severity, first.split, first.class_name, first.path) == (severity, "val", "bee", str(place))
    assert said in first.message
    assert first.remedy
    assert len(found) == 1 or kind == "small image"  # which is long, too
    assert run("check", root)[0] == (3 if severity == "error" else 0)


def test_at_the_borders_an_image_is_as_it_should_be(root):
    for number, size in enumerate([(8, 8), (64, 16), (16, 64)]):
        picture(910 + number, size=size).save(root / "train" / "ant" / f"fits{number}.png")
    assert kinds(root) == []


def test_a_huge_image_is_a_warning_below_the_limit_of_a_bomb(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE * SIZE)
    picture(920, size=(SIZE, SIZE + 1)).save(root / "train" / "ant" / "big.png")
    assert kinds(root) == [("warning", "huge image", "train")]
    picture(921, size=(2 * SIZE, SIZE + 1)).save(root / "train" / "ant" / "big.png")
    assert kinds(root) == [("error", "decompression bomb", "train")]


def test_a_file_that_cannot_be_opened_is_named(root, monkeypatch):
    from pathlib import Path

    read = Path.read_bytes

    def refuse(path):
        if path.name == "3.png" and path.parent.parent.name == "test":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert kinds(root) == [("error", "unreadable file", "test")] * 2


def test_modes_are_told_but_are_no_findings(root):
    folder = root / "train" / "ant"
    for number, mode in enumerate(["L", "RGBA", "CMYK"]):
        picture(930 + number).convert(mode).save(folder / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")
    deep = np.asarray(picture(933).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    document = check_data(str(root), workers=0).document
    assert document["images"]["train"]["modes"] == {"RGB": 24, "L": 1, "RGBA": 1, "CMYK": 1, "I;16": 1}
    assert document["findings"] == []
    stdout = run("check", root)[1]
    assert "28 of 28 images read, 24 x 24 pixels" in stdout
    assert "1 I;16" in stdout


@pytest.mark.parametrize(
    ("source", "copy", "expected"),
    [
        ("train/ant/0.png", "train/ant/x.png", ("warning", "duplicate", "train")),
        ("train/ant/0.png", "val/ant/x.png", ("warning", "duplicate", "val")),
        ("train/ant/0.png", "unlabeled/x.png", ("warning", "duplicate", "unlabeled")),
        ("train/ant/0.png", "test/ant/x.png", ("error", "leak", "test")),
        ("val/ant/0.png", "test/ant/x.png", ("error", "leak", "test")),
        ("unlabeled/0.png", "test/ant/x.png", ("error", "leak", "test")),
        ("test/ant/0.png", "test/ant/x.png", ("warning", "duplicate", "test")),
        ("train/ant/0.png", "train/bee/x.png", ("error", "label conflict", "train")),
        ("train/bee/0.png", "test/ant/x.png", ("error", "label conflict", "test")),
    ],
)
def test_a_copy_is_found_wherever_it_is(root, source, copy, expected):
    shutil.copy(root / source, root / copy)
    finding = one(root)
    assert (finding.severity, finding.kind, finding.split) == expected
    assert {finding.path, finding.other_path} == {str(root / source), str(root / copy)}
    assert finding.similarity == 1
    assert run("check", root)[0] == (3 if expected[0] == "error" else 0)


def test_every_further_copy_is_a_finding_and_a_conflict_names_the_rival(root):
    for name in ("train/ant/x.png", "train/bee/x.png", "test/ant/x.png"):
        shutil.copy(root / "train/ant/0.png", root / name)
    found = {finding.path.removeprefix(f"{root}/"): finding for finding in check_data(str(root), workers=0).findings}
    assert {path: finding.kind for path, finding in found.items()} == {
        "train/ant/x.png": "duplicate",
        "train/bee/x.png": "label conflict",
        "test/ant/x.png": "label conflict",
    }
    assert found["test/ant/x.png"].other_path == str(root / "train/bee/x.png")


CHANGES = {
    "jpeg": lambda image: Image.open(io.BytesIO(_jpeg(image, quality=50))),
    "smaller": lambda image: image.resize((21, 21), Image.Resampling.BICUBIC),
    "brighter": lambda image: image.point(lambda value: min(255, round(1.1 * value))),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("source", "copy"), [("train", "test"), ("train", "val"), ("val", "test")])
def test_a_changed_copy_in_another_split_is_a_warning(root, change, source, copy):
    with Image.open(root / source / "ant" / "5.png") as image:
        CHANGES[change](image).save(root / copy / "bee" / "x.png")
    finding = one(root)
    assert (finding.severity, finding.kind, finding.split, finding.class_name) == (
        "warning",
        "near duplicate",
        copy,
        "bee",
    )
    assert finding.path == str(root / copy / "bee" / "x.png")
    assert finding.other_path == str(root / source / "ant" / "5.png")
    assert 0.9 <= finding.similarity <= 1
    assert "bee and ant" in finding.message
    assert ("mirrored" in finding.message) == (change == "mirrored")


def test_a_changed_copy_in_train_is_no_leak(root):
    with Image.open(root / "train" / "ant" / "5.png") as image:
        CHANGES["jpeg"](image).save(root / "train" / "ant" / "x.png")
        CHANGES["jpeg"](image).save(root / "unlabeled" / "x.jpg")
    assert kinds(root) == []


def test_features_of_a_backbone_compare_readable_images(root, monkeypatch):
    """Features as given: image 5 of train and image 3 of test have the same ones, an unreadable image has none."""
    import torch

    def extracted(model, split, *, device, track=None):
        generator = torch.Generator().manual_seed(sum(map(ord, split.ids[0])))
        features = torch.randn(len(split.ids), 40, generator=generator)
        for position, name in enumerate(split.ids):
            if name in ("train/ant/5.png", "test/bee/3.png"):
                features[position] = torch.arange(40).float().sin()
            if name == "train/bee/7.png":
                features[position] = float("nan")
        return features

    monkeypatch.setattr("selmix.check.report.extract_features", extracted)
    (root / "test" / "ant" / "0.png").write_bytes(b"")
    found = check_data(str(root), backbone=SimpleNamespace(name="b"), workers=0).findings
    assert [finding.kind for finding in found] == ["empty file", "near duplicate"]
    assert found[1].path.endswith("test/bee/3.png")
    assert found[1].other_path.endswith("train/ant/5.png")


@pytest.mark.parametrize("blank", [True, False])
def test_images_that_are_all_the_same_are_copies_and_nothing_breaks(root, blank):
    image = Image.new("RGB", (SIZE, SIZE), "red") if blank else picture(3000)
    for path in (root / "train").rglob("*.png"):
        image.save(path)
    found = check_data(str(root), workers=0).findings
    # 24 images of one picture in two classes: 11 further ants, 12 bees that are ants
    expected = {"duplicate": 11, "label conflict": 12} | ({"blank image": 24} if blank else {})
    assert Counter(finding.kind for finding in found) == expected


def test_the_faint_rest_of_blank_images_is_not_compared(root):
    faint = np.asarray(picture(3100)).astype(int) // 64  # 0 to 3 grey levels
    for split, level in (("train", 60), ("test", 160)):
        Image.fromarray((faint + level).astype(np.uint8)).save(root / split / "ant" / "faint.png")
    assert kinds(root) == [("warning", "blank image", "train"), ("warning", "blank image", "test")]


@pytest.mark.parametrize("where", [0.4, 0.6])
def test_damage_in_the_middle_of_a_png_is_found(root, where):
    path = root / "train" / "ant" / "3.png"
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0xFF
    path.write_bytes(content)
    assert kinds(root) == [("error", "unreadable image", "train")]


def test_a_single_class_is_an_error(root):
    for split in ("train", "val", "test"):
        shutil.rmtree(root / split / "bee")
    assert ("error", "one class", "") in kinds(root)


@pytest.mark.parametrize(
    ("label", "split", "kind"), [("bee", "train", "repeated image"), ("ant", "test", "image in two")]
)
def test_one_file_with_an_absolute_and_a_relative_path_is_seen(root, label, split, kind):
    names = [f"{part}/{name}/{number}.png,{name},{part}" for part in ("train", "test") for name in ("ant", "bee")
             for number in range(10)]  # fmt: skip
    manifest = root / "m.csv"
    rows = ["path,label,split", *names, f"{root}/train/ant/0.png,{label},{split}"]
    manifest.write_text("\n".join(rows))
    assert any(severity == "error" and own.startswith(kind) for severity, own, _ in kinds(manifest))


def test_what_cannot_be_opened_is_written_all_the_same(tmp_path):
    (tmp_path / "m.csv").write_text("file,class\na.png,ant\n")
    code, stdout, _ = run("check", tmp_path / "m.csv", "--json", "--out", tmp_path / "f.csv")
    assert code == 3
    (finding,) = json.loads(stdout)["findings"]
    assert finding["kind"] == "manifest"
    assert len(list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))) == 1


def test_errors_come_first(root):
    picture(3200, size=(4, 4)).save(root / "train" / "ant" / "small.png")
    (root / "test" / "bee" / "0.png").write_bytes(b"")
    assert kinds(root) == [("error", "empty file", "test"), ("warning", "small image", "train")]


def test_features_that_make_everything_look_alike_are_left_aside(root, monkeypatch, caplog):
    import torch

    monkeypatch.setattr(
        "selmix.check.report.extract_features",
        lambda model, split, **_: torch.eye(4)[[int("/ant/" in name) for name in split.ids]],
    )
    with Image.open(root / "train" / "ant" / "5.png") as image:
        CHANGES["jpeg"](image).save(root / "test" / "ant" / "x.png")
    assert [
        finding.path for finding in check_data(str(root), backbone=SimpleNamespace(name="b"), workers=0).findings
    ] == [str(root / "test" / "ant" / "x.png")]
    assert "49 of 49 images look alike" in caplog.text  # 24 of val, 25 of test


@pytest.mark.parametrize("faiss", [True, False])
def test_beyond_the_limit_of_pairs_it_is_said_what_is_done(root, monkeypatch, caplog, faiss):
    import sys

    for source in ("ant/0.png", "bee/5.png"):
        with Image.open(root / "test" / source) as image:
            CHANGES["jpeg"](image).save(root / "train" / source.replace("/", "/x"))
    monkeypatch.setattr("selmix.check.lookalikes.PAIR_LIMIT", 10)
    if not faiss:
        monkeypatch.setitem(sys.modules, "faiss", None)
    caplog.set_level("INFO", "selmix")
    found = kinds(root)
    assert ("lists" if faiss else "install faiss") in caplog.text
    # without faiss the first image of test is all that is compared
    assert found == [("warning", "near duplicate", "test")] * (2 if faiss else 1)


def test_few_images_and_imbalance_are_said_with_what_they_mean(root):
    for index in range(4, 12):
        (root / "val" / "bee" / f"{index}.png").unlink()
    finding = one(root)
    assert (finding.severity, finding.kind, finding.split) == ("warning", "few images", "val")
    assert "bee (4)" in finding.message
    document = check_data(str(root), workers=0).document
    assert document["splits"]["val"]["imbalance_factor"] == 3  # 12 / 4
    assert "val is imbalanced (3)" in document["notes"][0]
    for split in ("val", "test"):
        shutil.rmtree(root / split)
    notes = check_data(str(root), workers=0).document["notes"]
    assert [note.split(":")[0] for note in notes] == ["there is no val", "there is no test"]
    (root / "Valid").mkdir()  # whose finding says more
    assert [note[:16] for note in check_data(str(root), workers=0).document["notes"]] == ["there is no test"]


def test_classes_that_do_not_match_are_shown_by_name(root):
    (root / "val" / "bee").rename(root / "val" / "Bee")
    (root / "test" / "bee").rename(root / "test" / "wasp")
    code, stdout, _ = run("check", root, "--json")
    assert code == 3
    document = json.loads(stdout)
    assert document["classes"] == [
        {"class": "ant", "train": 12, "val": 12, "test": 12, "group": "tail"},
        {"class": "bee", "train": 12, "val": 0, "test": 0, "group": "tail"},
        {"class": "Bee", "train": 0, "val": 12, "test": 0, "group": "tail"},
        {"class": "wasp", "train": 0, "val": 0, "test": 12, "group": "tail"},
    ]
    assert document["splits"]["val"]["imbalance_factor"] is None
    assert {"case twins", "classes"} <= {finding["kind"] for finding in document["findings"]}


def test_without_train_what_was_found_is_still_shown(root):
    (root / "train").rename(root / "Training")
    code, stdout, _ = run("check", root)
    assert code == 3
    assert "no train" in stdout
    assert "ant" in stdout
    assert "rename it" in stdout


def test_many_classes_are_cut_to_the_ends(tmp_path):
    for number in range(40):
        folder = tmp_path / "train" / f"c{number:02}"
        folder.mkdir(parents=True)
        for index in range(1 + (number == 7) + 2 * (number == 9)):
            picture(1000 + 3 * number + index).save(folder / f"{index}.png")
    code, stdout, _ = run("check", tmp_path)
    assert code == 0
    assert "the 10 largest and smallest of 40 by train" in " ".join(stdout.split())
    shown = [
        line.split("│")[1].strip() for line in stdout.splitlines() if line.startswith("│ c") and "class" not in line
    ]
    assert shown[:2] == ["c09", "c07"]
    assert len(shown) == 20


def test_findings_are_written_as_csv_whatever_is_in_a_name(root, tmp_path):
    odd = root / "train" / "ant" / 'a,"b\n=c.png'
    odd.write_bytes(b"")
    raw = bytes(root / "train" / "ant") + b"/\xe9.png"
    with open(raw, "wb"):
        pass
    code, stdout, _ = run("check", root, "--out", tmp_path / "f.csv")
    assert code == 3
    assert f"written: {tmp_path / 'f.csv'}" in stdout
    with open(tmp_path / "f.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "severity", "kind", "split", "class", "path", "message", "remedy", "other_path", "similarity"
    ]  # fmt: skip
    assert {row["path"] for row in rows} == {str(odd), raw.decode(errors="surrogateescape")}
    assert [row["kind"] for row in rows] == ["empty file"] * 2
    assert list(tmp_path.glob(".*")) == []
    assert json.loads(run("check", root, "--json")[1])["counts"] == {"error": 2, "warning": 0}
    (tmp_path / "f.csv").write_text("path,label")  # a manifest, by mistake
    code, _, stderr = run("check", root, "--out", tmp_path / "f.csv")
    assert code == 2
    assert "is there already; name a new file or add --overwrite" in stderr
    assert (tmp_path / "f.csv").read_text() == "path,label"
    assert run("check", root, "--out", tmp_path / "f.csv", "--overwrite")[0] == 3
    assert (tmp_path / "f.csv").read_bytes().startswith(b"severity")


def test_fixes_say_what_to_do_once_for_each_kind(root):
    for index in range(3):
        shutil.copy(root / "train/ant" / f"{index}.png", root / "test/ant" / f"x{index}.png")
    (root / "val" / "ant" / "0.png").write_bytes(b"")
    document = check_data(str(root), workers=0).document
    assert document["fixes"] == [
        f"empty file, {root}/val/ant/0.png: fetch it again, remove it, or leave it out: finetune --on-bad-image skip",
        "leak, 3 times in test: move it out of test, or out of the other split",
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["shipped:nothing"], 2, "nothing called"),
        (["no/such/folder"], 3, "no such folder"),
        (["shipped:fashion_mnist_lt", "--backbone", "nothing"], 2, "a backbone is"),
        (["shipped:fashion_mnist_lt", "--out", "no/such/folder/f.csv"], 2, "--out"),
    ],
)
def test_bad_words_are_one_line(words, code, said):
    found, stdout, stderr = run("check", *words)
    assert (found, stdout) == (code, "")
    assert said in stderr
    assert stderr.count("\n") == 1


def test_worker_processes_read_what_one_process_reads(root):
    from selmix.data.sources import open_images

    (root / "train" / "ant" / "3.png").write_bytes(b"")
    split = open_images(str(root)).splits["train"]
    many = ImageSplit(split.ids * 30, None, split.subset(np.tile(np.arange(24), 30)).images)
    alone, together = (read_images(many, name="train", workers=workers) for workers in (0, 2))
    assert (alone.facts == together.facts).all()
    assert alone.faults == together.faults
    assert list(alone.faults) == list(range(split.ids.index("train/ant/3.png"), 720, 24))
    seen = []

    def track(positions, description, total):
        assert (description, total) == ("reading train", 720)
        for position in positions:
            seen.append(position)
            yield position

    read_images(many, name="train", workers=0, track=track)
    assert seen == list(range(720))


def test_images_in_memory_are_compared_by_their_pixels():
    pixels = np.stack([np.asarray(picture(seed)) for seed in range(3)])
    reading = read_images(ImageSplit(["a", "b", "c"], None, ArrayImages(pixels[[0, 1, 0]])), name="train")
    digests = reading.facts["digest"]
    assert (digests[0] == digests[2]).all()
    assert (digests[0] != digests[1]).any()


def test_a_worker_that_dies_is_one_line(root, monkeypatch):
    import os

    from selmix.data.images import FileImages
    from selmix.data.sources import open_images

    split = open_images(str(root)).splits["train"]
    many = ImageSplit(split.ids * 30, None, FileImages([*split.images.paths] * 30))
    monkeypatch.setattr("selmix.check.reading._read", lambda *_: os._exit(9))
    with pytest.raises(DataError, match="a worker process died"):
        read_images(many, name="train", workers=2)


def kinds_in_the_code() -> set[str]:
    """Return the kinds that stand in calls that make findings."""
    place_of_kind = {"fault": 0, "caution": 0, "make": 0, "refuse": 1, "each": 1}
    package = Path(selmix.__file__).parent
    found = set()
    for path in [*(package / "data").glob("*.py"), *(package / "check").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "func", None)
            place = place_of_kind.get(getattr(name, "id", getattr(name, "attr", "")))
            if isinstance(node, ast.Call) and place is not None:
                kind = node.args[place]
                if isinstance(kind, ast.Constant):
                    found.add(kind.value)
                else:  # within the makers themselves the kind is an argument
                    assert getattr(kind, "id", "") == "kind", f"{path}:{node.lineno} hides its kind from this test"
    return found


def test_every_kind_is_explained():
    page = (Path(__file__).parent.parent / "docs" / "check.md").read_text()
    listed = re.findall(r"^\| ([a-z ]+) \| (?:error|warning)", page, re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == kinds_in_the_code()
    assert {"leak", "near duplicate", "turned image", "case twins", "empty path"} <= set(listed)
