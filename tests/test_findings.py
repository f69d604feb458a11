"""What is wrong with an image folder is found at once, each fault with its place and a remedy."""

import os
import shutil

import pytest
from builders import write_image_folder, write_images

from selmix.data import folder as folder_module
from selmix.data.findings import accepted, caution, fault
from selmix.data.sources import open_images, survey_images
from selmix.errors import DataError

COUNTS = {"train": {"cat": 2, "dog": 1}, "val": {"cat": 1, "dog": 1}}


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "data", COUNTS)


def found(root, kind):
    """Return the findings of a kind."""
    return [finding for finding in survey_images(str(root))[1] if finding.kind == kind]


def test_a_sound_folder_has_no_findings(root):
    data, findings = survey_images(str(root))
    assert findings == []
    assert data.class_names == ["cat", "dog"]


def test_every_finding_says_where_and_what_to_do(root):
    shutil.rmtree(root / "val" / "dog")
    write_images(root / "val" / "Cow", 1)
    (root / "train" / "owl").mkdir()
    (root / "Test").mkdir()
    write_images(root / "train" / ".fox", 1)
    (root / "train" / "cat" / "notes.txt").write_text("")
    (root / "train" / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    write_images(root / "train", 1)
    findings = survey_images(str(root))[1]
    assert {finding.kind: finding.severity for finding in findings} == {
        "classes": "error",
        "empty class": "error",
        "split name": "error",
        "hidden folder": "warning",
        "no image": "warning",
        "broken link": "error",
        "loose images": "warning",
    }
    for finding in findings:
        assert finding.remedy
        assert str(root) in finding.message
        assert "\n" not in str(finding)
        assert os.path.lexists(finding.path)
        if finding.kind != "split name":
            assert finding.split in ("train", "val")
    (link,) = [finding for finding in findings if finding.kind == "broken link"]
    assert (link.split, link.class_name) == ("train", "cat")
    (empty,) = [finding for finding in findings if finding.kind == "empty class"]
    assert (empty.split, empty.class_name, empty.path) == ("train", "owl", str(root / "train" / "owl"))


def test_the_rows_at_fault_are_left_out_of_the_survey(root):
    write_images(root / "val" / "cow", 3)
    data, findings = survey_images(str(root))
    assert [finding.severity for finding in findings] == ["error"]
    assert data.splits["val"].ids == ["val/cat/0.png", "val/dog/0.png"]
    assert data.splits["val"].labels.tolist() == [0, 1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_twins_within_a_split_are_both_named(root, split):
    write_images(root / split / "Cat", 1)
    if not (root / split / "Cat").samefile(root / split / "cat"):
        (finding,) = found(root, "case twins")
        assert finding.severity == "error"
        assert finding.split == split
        assert "'Cat'" in finding.message
        assert "'cat'" in finding.message


# composed and decomposed e with acute accent look the same; macOS writes the second
@pytest.mark.parametrize(("one", "other"), [("dog", "Dog"), ("caf\u00e9", "cafe\u0301"), ("dog", "dog ")])
def test_twins_between_splits_are_named_instead_of_a_missing_and_an_extra_class(tmp_path, one, other):
    write_image_folder(tmp_path, {"train": {"cat": 1, one: 1}, "val": {"cat": 1, other: 1}})
    findings = survey_images(str(tmp_path))[1]
    assert [finding.kind for finding in findings] == ["case twins"]
    assert findings[0].split == "val"
    assert repr(one) in findings[0].message
    assert repr(other) in findings[0].message


def test_a_class_that_is_nearly_another_is_suggested(tmp_path):
    write_image_folder(tmp_path, {"train": {"cats": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}})
    (finding,) = survey_images(str(tmp_path))[1]
    assert "lacks cats" in finding.message
    assert "adds cat" in finding.message
    assert "cat is near cats" in finding.message
    assert "did you mean" in finding.message


@pytest.mark.parametrize(
    ("names", "trap"),
    [
        (["1", "2", "10"], True),
        (["01", "02", "10"], False),
        (["1", "2", "3"], False),
        (["1", "10", "2", "a"], False),
        (["100", "99"], True),
    ],
)
def test_numbers_sorted_as_strings_are_said(tmp_path, names, trap):
    write_image_folder(tmp_path, {"train": dict.fromkeys(names, 1)})
    data, findings = survey_images(str(tmp_path))
    assert data.class_names == sorted(names)
    assert [(finding.kind, finding.severity) for finding in findings] == [("numeric order", "warning")] * trap


def test_the_numeric_trap_says_which_class_a_label_is(tmp_path):
    write_image_folder(tmp_path, {"train": {"1": 1, "2": 1, "10": 1}})
    # as strings: 1, 10, 2
    assert "label 1 is class 10, not 2" in survey_images(str(tmp_path))[1][0].message


def test_links_are_followed_and_a_loop_is_one_finding(root, tmp_path):
    write_images(tmp_path / "elsewhere", 2)
    (root / "train" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    data, findings = survey_images(str(root))
    assert findings == []
    assert [name for name in data.splits["train"].ids if "/dog/" in name] == [
        "train/dog/0.png", "train/dog/more/0.png", "train/dog/more/1.png",
    ]  # fmt: skip
    data.splits["train"].images.open(4)
    (root / "train" / "dog" / "loop").symlink_to(root / "train")
    (root / "train" / "cat" / "self").symlink_to("self")
    findings = survey_images(str(root))[1]
    assert [(finding.kind, finding.severity) for finding in findings] == [
        ("broken link", "error"),
        ("link loop", "error"),
    ]


def test_a_broken_link_beside_the_splits_is_left_alone(root):
    (root / "latest").symlink_to("nowhere")
    assert survey_images(str(root))[1] == []


def test_a_folder_that_cannot_be_read_is_one_finding(root, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("train/dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(folder_module.os, "scandir", scandir)
    (finding,) = survey_images(str(root))[1]
    assert finding.kind == "unreadable folder"
    assert finding.path == str(root / "train" / "dog")
    assert "Permission denied" in finding.message


def test_names_that_are_no_utf8_are_read(root):
    name = os.fsdecode(b"\xff.png")
    shutil.copy(root / "train" / "dog" / "0.png", root / "train" / "dog" / name)
    assert f"train/dog/{name}" in open_images(str(root)).splits["train"].ids


@pytest.mark.parametrize("name", ["nowhere", "file.txt", "nowhere.csv", "nowhere.parquet"])
def test_what_is_no_data_is_one_line(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match=name) as caught:
        open_images(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_one_fault_is_raised_as_it_is_and_several_with_the_way_to_see_them_all():
    faults = [fault("kind", f"fault {number}", "mend it") for number in range(5)]
    with pytest.raises(DataError, match="^fault 0; mend it$"):
        accepted((None, faults[:1]), "my data")
    with pytest.raises(DataError, match="^my data has 5 faults: .*fault 2; mend it") as caught:
        accepted((None, faults), "my data")
    assert "fault 3" not in str(caught.value)
    assert str(caught.value).endswith("selmix check 'my data'")


def test_warnings_are_logged_and_do_not_keep_data_back(root, caplog):
    data, _ = survey_images(str(root))
    with caplog.at_level("WARNING", logger="selmix"):
        assert accepted((data, [caution("odd", "odd thing", "mind it")]), "spec") is data
    assert [record.getMessage() for record in caplog.records] == ["odd thing; mind it"]
