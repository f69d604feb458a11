"""CSV and Parquet manifests: what they say is read as it stands, and every faulty row is named."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import noise_image

from selmix.data.sources import open_images, survey_images
from selmix.errors import DataError

PLAIN = "path,label,split\na.png,cat,train\nb.png,dog,train\nc.png,cat,val\nd.png,dog,val\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with images a.png .. h.png, and some with names that need care."""
    for index, name in enumerate([*"abcdefgh", "x,y", "\u00fcber blau", "deep/er/i"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_image(index).save(path)
    return tmp_path


def survey(folder, content, name="m.csv"):
    path = folder / name
    if isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return survey_images(str(path))


def messages(folder, content, name="m.csv"):
    return [(finding.kind, finding.message) for finding in survey(folder, content, name)[1]]


def contents(data):
    return {
        split: (part.ids, None if part.labels is None else part.labels.tolist()) for split, part in data.splits.items()
    }


SOUND = {
    "plain": PLAIN,
    "byte order mark": "\ufeff" + PLAIN,
    "windows lines": PLAIN.replace("\n", "\r\n"),
    "blank lines": PLAIN.replace("\n", "\n\n") + "\n,,\n",
    "no last line end": PLAIN.rstrip("\n"),
    "header in another case": PLAIN.replace("path,label,split", "Path, LABEL ,Split"),
    "other order of columns": "split,label,path\ntrain,cat,a.png\ntrain,dog,b.png\nval,cat,c.png\nval,dog,d.png\n",
    "quoted": PLAIN.replace("a.png", '"a.png"'),
    "blanks around words": PLAIN.replace("cat,train", " cat , train "),
    "dots": PLAIN.replace("a.png", "./deep/../a.png"),
}


@pytest.mark.parametrize("form", SOUND)
def test_a_sound_manifest_is_read_whatever_its_form(folder, form):
    data, findings = survey(folder, SOUND[form])
    assert findings == []
    assert data.class_names == ["cat", "dog"]
    assert contents(data) == {"train": (["a.png", "b.png"], [0, 1]), "val": (["c.png", "d.png"], [0, 1])}
    np.testing.assert_array_equal(np.asarray(data.splits["val"].images.open(1)), np.asarray(noise_image(3)))
    assert data.digest == survey(folder, PLAIN)[0].digest


def test_parquet_says_the_same(folder):
    columns = {"path": ["a.png", "b.png", "c.png", "d.png"], "split": ["train", "train", "val", "val"]}
    strings = columns | {"label": pa.array(["cat", "dog", "cat", "dog"]).dictionary_encode()}
    data, findings = survey(folder, strings, "m.parquet")
    assert findings == []
    assert data.digest == survey(folder, PLAIN)[0].digest


def test_names_with_commas_and_umlauts_and_folders_are_files(folder):
    data, findings = survey(folder, 'path,label\n"x,y.png",a\n\u00fcber blau.png,\u00fc\ndeep/er/i.png,a\n')
    assert findings == []
    assert data.class_names == ["a", "\u00fc"]
    for position, seed in enumerate([8, 9, 10]):
        np.testing.assert_array_equal(
            np.asarray(data.splits["train"].images.open(position)), np.asarray(noise_image(seed))
        )


def test_absolute_paths_are_taken_as_they_are_where_that_is_allowed(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SELMIX_DATA_ROOTS", str(folder))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "m.csv"
    elsewhere.write_text(f"path,label\n{folder}/a.png,x\n{folder}/b.png,y\n")
    data = open_images(str(elsewhere))
    assert data.splits["train"].ids == [f"{folder}/a.png", f"{folder}/b.png"]
    data.splits["train"].images.open(1)


def test_text_of_a_parquet_file_that_is_not_utf8_is_refused(folder):
    table = pa.table({"path": ["a.png", "b.png"], "label": ["x", "y"]})
    pq.write_table(table, folder / "m.parquet", compression="none", store_schema=False)
    content = (folder / "m.parquet").read_bytes()
    (folder / "m.parquet").write_bytes(content.replace(b"a.png", b"a\xa8png"))
    with pytest.raises(DataError, match=r"m\.parquet is not written in UTF-8"):
        open_images(str(folder / "m.parquet"))


def test_a_parquet_file_whose_group_claims_more_rows_than_the_file_is_refused(folder, monkeypatch):
    class Claim:
        num_rows, total_byte_size = 97_285_764_728, 400

    class Claiming(pq.ParquetFile):
        metadata = type("Metadata", (), {"num_rows": 8, "row_group": lambda self, number: Claim})()

    pq.write_table(pa.table({"path": ["a.png", "b.png"], "label": ["x", "y"]}), folder / "m.parquet")
    monkeypatch.setattr("selmix.data.columns.pq.ParquetFile", Claiming)
    with pytest.raises(DataError, match="has 97285764728 rows in"):
        open_images(str(folder / "m.parquet"))


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_integer_labels_are_classes_in_numeric_order(folder, name):
    content = "path,label\na.png,10\nb.png,9\nc.png,10\n"
    if name == "m.parquet":
        content = {"path": ["a.png", "b.png", "c.png"], "label": [10, 9, 10]}
    data, findings = survey(folder, content, name)
    assert findings == []
    assert data.class_names == ["9", "10"]
    assert data.splits["train"].labels.tolist() == [1, 0, 1]


def test_padded_numbers_stay_the_names_that_they_are(folder):
    data, findings = survey(folder, "path,label\na.png,007\nb.png,010\n")
    assert findings == []
    assert data.class_names == ["007", "010"]


def test_words_that_other_readers_turn_into_nothing_or_truth_are_names(folder):
    data, findings = survey(folder, "path,label\na.png,null\nb.png,NA\nc.png,true\n")
    assert findings == []
    assert data.class_names == ["NA", "null", "true"]


def test_unlabeled_rows_need_no_label_and_no_group(folder):
    rows = "path,label,split,group\na.png,x,train,g\nb.png,y,train,h\nc.png,,unlabeled,\nd.png,x,unlabeled,g\n"
    data, findings = survey(folder, rows)
    assert findings == []
    unlabeled = data.splits["unlabeled"]
    assert (unlabeled.ids, unlabeled.labels, unlabeled.groups) == (["c.png", "d.png"], None, None)


def test_groups_are_those_of_train_and_val_in_order(folder):
    rows = (
        "path,label,split,group\n"
        "a.png,x,train,10\nb.png,y,train,9\nc.png,x,val,2\nd.png,y,val,9\ne.png,x,test,2\nf.png,y,test,9\n"
    )
    data, findings = survey(folder, rows)
    assert findings == []
    assert data.group_names == ["2", "9", "10"]
    assert {split: part.groups.tolist() for split, part in data.splits.items()} == {
        "train": [2, 1], "val": [0, 1], "test": [0, 1],
    }  # fmt: skip
    findings = survey(folder, rows.replace("test,2", "test,77"))[1]
    assert [(finding.kind, finding.split) for finding in findings] == [("groups", "test")]
    assert "77" in findings[0].message


# (the manifest, kind, what the message must say); the header is row 1, as in a spreadsheet
ROW_FAULTS = {
    "no such file": (PLAIN + "no.png,cat,val\nno2.png,cat,val\n", "missing file", ["rows 6, 7", "no.png"]),
    "empty path": (PLAIN + ",cat,val\n", "empty path", ["row 6"]),
    "empty label": (PLAIN + "e.png,,val\n", "no label", ["row 6"]),
    "after a blank line": (PLAIN + "\n\ne.png,,val\n", "no label", ["row 8"]),
    "a row that is none": (PLAIN + "e.png\n", "cells", ["row 6"]),
    "too many cells": (PLAIN + "e,f.png,cat,val\n", "cells", ["row 6"]),
    "unknown split": (PLAIN + "e.png,cat,valid\n", "split name", ["row 6", "'valid'", "val"]),
    "split in capitals": (PLAIN + "e.png,cat,VAL\n", "split name", ["row 6", "'VAL'"]),
    "no split": (PLAIN + "e.png,cat,\n", "split name", ["row 6", "no split"]),
    "twice in a split": (PLAIN + "a.png,cat,train\n", "repeated image", ["train", "a.png", "row 2", "row 6"]),
    "twice in disguise": (PLAIN + "./a.png,cat,train\n", "repeated image", ["a.png", "row 2", "row 6"]),
    "twice with another label": (PLAIN + "a.png,dog,train\n", "repeated image", ["1 with different labels"]),
    "in two splits": (PLAIN + "a.png,cat,val\n", "image in two splits", ["train", "val", "a.png", "row 2", "row 6"]),
    "a class of its own": (PLAIN + "e.png,cow,val\n", "classes", ["adds cow"]),
    "floats": ("path,label\na.png,1.0\nb.png,2\nc.png,3.0\n", "label", ["rows 2, 4", "1.0, 3.0"]),
    "negative": ("path,label\na.png,1\nb.png,-1\n", "label", ["row 3", "-1"]),
    "not a number": ("path,label\na.png,1\nb.png,nan\n", "label", ["row 3", "nan"]),
    "no group": ("path,label,group\na.png,x,g\nb.png,y,\n", "no group", ["row 3"]),
    "backslashes": ("path,label\na.png,x\ndeep\\er\\i.png,y\n", "missing file", ["row 3"]),
    "many": ("path,label\na.png,x\n" + "no.png,x\n" * 40, "missing file", ["rows 3, 4, 5, 6, 7 and 35 more"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ROW_FAULTS)
def test_faulty_rows_are_named_by_number(folder, case):
    content, kind, words = ROW_FAULTS[case]
    faults = [finding for finding in survey(folder, content)[1] if finding.severity == "error"]
    assert [finding.kind for finding in faults] == [kind]
    for word in words:
        assert word in str(faults[0])
    assert faults[0].remedy
    assert "\n" not in str(faults[0])
    with pytest.raises(DataError):
        open_images(str(folder / "m.csv"))


@pytest.mark.parametrize(
    ("content", "classes", "groups"),
    [
        ("path,label,group\na.png,x,g\nb.png,y,\n", ["x"], ["g"]),
        ("path,label\na.png,1.0\nb.png,2\n", ["2"], []),
        ("path,label\na.png,1\n,2\n", ["1"], []),
    ],
)
def test_a_row_at_fault_names_no_class_and_no_group(folder, content, classes, groups):
    data, findings = survey(folder, content)
    assert len(findings) == 1
    assert (data.class_names, data.group_names) == (classes, groups)


def test_rows_after_one_that_is_none_keep_their_numbers(folder):
    assert messages(folder, PLAIN + "e.png\ne.png,,val\n") == [
        ("cells", f"{folder}/m.csv, row 6: not as many cells as the header has"),
        ("no label", f"{folder}/m.csv, row 7: no label"),
    ]


def test_an_image_of_train_among_the_unlabeled_is_said_only(folder):
    (finding,) = survey(folder, PLAIN + "a.png,,unlabeled\n")[1]
    assert (finding.kind, finding.severity) == ("image in two splits", "warning")


def test_a_finding_has_the_class_that_its_rows_share(folder):
    rows = "path,label\na.png,x\nb.png,y\nno.png,y\nno2.png,y\n"
    assert [finding.class_name for finding in survey(folder, rows)[1]] == ["y"]
    assert [finding.class_name for finding in survey(folder, rows + "no3.png,x\n")[1]] == [""]


def test_a_zero_byte_in_a_path_is_no_file(folder):
    content = {"path": ["a.png", "b\0/c.png"], "label": ["x", "y"]}
    assert [finding.kind for finding in survey(folder, content, "m.parquet")[1]] == ["missing file"]


def test_remedies_fit_the_case(folder):
    assert "/" in survey(folder, "path,label\na.png,x\ndeep\\er\\i.png,y\n")[1][0].remedy
    assert "did you mean b.png?" in survey(folder, "path,label\na.png,x\nB.PNG,y\n")[1][0].remedy


def test_a_class_whose_images_are_all_missing_stays_in_the_table(folder):
    data, findings = survey(folder, PLAIN.replace("b.png", "no.png"))
    assert [finding.kind for finding in findings] == ["missing file"]
    assert data.class_names == ["cat", "dog"]
    assert contents(data) == {"train": (["a.png"], [0]), "val": (["c.png", "d.png"], [0, 1])}


def test_rows_after_a_missing_file_keep_their_class_group_and_number(folder):
    rows = "path,label,group\nno.png,y,h\na.png,x,g\nb.png,y,h\nb.png,y,h\n"
    data, findings = survey(folder, rows)
    assert [finding.kind for finding in findings] == ["missing file", "repeated image"]
    assert "row 4 and row 5" in findings[1].message
    assert data.splits["train"].labels.tolist() == data.splits["train"].groups.tolist() == [0, 1, 1]


def test_a_folder_is_no_file(folder):
    (finding,) = survey(folder, "path,label\na.png,x\ndeep/er,y\n")[1]
    assert finding.kind == "missing file"


def test_all_faults_are_found_at_once_and_the_sound_rows_remain(folder):
    data, findings = survey(folder, PLAIN + ",cat,val\nno.png,cat,val\ne.png,,val\nf.png,dog,nowhere\n")
    assert {finding.kind for finding in findings} == {"empty path", "missing file", "no label", "split name"}
    assert contents(data) == contents(survey(folder, PLAIN)[0])


# (the file, what the one line must say)
UNUSABLE = {
    "empty": (b"", "empty"),
    "header alone": (b"path,label\n", "no rows"),
    "no label": (b"path\na.png\n", "lacks the column label"),
    "semicolons": (b"path;label\na.png;1\n", "commas"),
    "another name": (b"path,class\na.png,1\n", "did you mean label by class?"),
    "a split under another name": (b"path,label,subset\na.png,1,test\n", "did you mean split by subset?"),
    "twice": (b"path,label,Label\na.png,1,1\n", "label twice"),
    "latin-1": ("path,label\na.png,\u00fc\n".encode("latin-1"), "UTF-8"),
    "latin-1 header": ("path,label,\u00fc\na.png,a,a\n".encode("latin-1"), "UTF-8"),
    "utf-16": ("path,label\na.png,x\n".encode("utf-16"), "UTF-8"),
    "no train": (b"path,label,split\na.png,x,val\n", "no usable row of train"),
    "an open quote": (b'path,label\n"a.png,x\nb.png,y\n', "cells"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(folder, case):
    content, word = UNUSABLE[case]
    data, findings = survey(folder, content)
    assert data is None
    assert any(word in str(finding) for finding in findings)
    with pytest.raises(DataError, match="m.csv") as caught:
        open_images(str(folder / "m.csv"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"path": [1.5], "label": ["x"]}, "double"),
        ({"path": ["a.png"], "label": [["x"]]}, "list"),
        ({"path": ["a.png"]}, "lacks the column label"),
        ({"path": ["a.png", "b.png"], "label": [1.0, float("nan")]}, "row 1: labels that are no integers from 0: 1.0"),
        ({"path": ["a.png", "b.png"], "label": ["x", None]}, "row 2: no label"),
        ({"path": ["a.png", None], "label": ["x", "y"]}, "row 2: no path"),
        (b"PAR1 and no more", "cannot be read"),
    ],
)
def test_parquet_faults_are_named(folder, columns, word):
    _, findings = survey(folder, columns, "m.parquet")
    assert any(word in str(finding) for finding in findings if finding.severity == "error"), findings


def test_other_columns_are_ignored_and_said(folder):
    data, findings = survey(folder, "path,label,width\na.png,x,3\nb.png,y,4\n")
    assert [(finding.severity, finding.kind) for finding in findings] == [("warning", "columns")]
    assert "width" in findings[0].message
    assert len(data.splits["train"].ids) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [("a.png", "e.png"), ("cat", "cow"), ("b.png,dog", "b.png,cat"), ("val", "test"), ("d.png,dog,val\n", "")],
)
def test_the_digest_changes_with_an_id_a_class_a_label_or_a_split(folder, old, new):
    before, _ = survey(folder, PLAIN + "f.png,dog,val\n")
    after, _ = survey(
        folder, PLAIN.replace(old, new) + "f.png,dog,val\n".replace("val", new if old == "val" else "val")
    )
    assert before.digest != after.digest


def test_the_digest_changes_with_a_group(folder):
    rows = "path,label,group\na.png,x,g\nb.png,y,h\nc.png,y,g\n"
    other, renamed = rows.replace("c.png,y,g", "c.png,y,h"), rows.replace(",h", ",i")
    assert len({survey(folder, content)[0].digest for content in (rows, other, renamed)}) == 3


def test_images_of_a_manifest_can_be_pickled(folder):
    images = survey(folder, PLAIN)[0].splits["train"].images
    again = pickle.loads(pickle.dumps(images))
    assert list(again.paths) == [folder / "a.png", folder / "b.png"] == list(again.paths[:])
