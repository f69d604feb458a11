"""TOML data specs: folders, lists and manifests split by split, and every fault of the file at once."""

import os

import numpy as np
import pytest
from builders import noise_image, write_image_folder, write_images

from selmix.data.sources import open_images, survey_images
from selmix.errors import DataError, UsageError

COUNTS = {"train": {"ant": 2, "bee": 3}, "val": {"ant": 1, "bee": 1}, "test": {"ant": 1, "bee": 1}}


@pytest.fixture
def root(tmp_path):
    """A folder whose images lie under images/."""
    write_image_folder(tmp_path / "images", COUNTS)
    write_images(tmp_path / "images" / "pool", 2)
    return tmp_path


def write(root, text, name="data.toml"):
    (root / name).write_text(text)
    return str(root / name)


def faults(root, text):
    return [finding for finding in survey_images(write(root, text))[1] if finding.severity == "error"]


def refusal(root, text):
    with pytest.raises(UsageError) as caught:
        survey_images(write(root, text))
    assert "\n" not in str(caught.value)
    assert str(root / "data.toml") in str(caught.value)
    return str(caught.value)


def labels(data, split):
    return dict(zip(data.splits[split].ids, data.splits[split].labels.tolist(), strict=True))


FOLDERS = """
root = "images"
[train]
folder = "train"
[val]
folder = "val/"
[test]
folder = "test"
[unlabeled]
folder = "pool"
"""


def test_folders_split_by_split_are_what_an_image_folder_is(root):
    data = open_images(write(root, FOLDERS))
    plain = open_images(str(root / "images"))
    assert data.class_names == plain.class_names == ["ant", "bee"]
    for split in COUNTS:
        assert labels(data, split) == labels(plain, split)
    assert data.splits["unlabeled"].ids == ["pool/0.png", "pool/1.png"]
    assert data.splits["unlabeled"].labels is None


def test_a_folder_that_holds_data_toml_is_that_spec_from_anywhere(root, tmp_path_factory, monkeypatch):
    write(root, FOLDERS)
    digest = open_images(str(root)).digest
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    data = open_images(os.path.relpath(root))
    assert data.digest == digest
    np.testing.assert_array_equal(np.asarray(data.splits["train"].images.open(1)), np.asarray(noise_image(1)))


def test_an_explicit_class_table_orders_the_labels_and_holds_train_to_it(root):
    data = open_images(write(root, 'classes = ["bee", "ant"]\n' + FOLDERS))
    assert data.class_names == ["bee", "ant"]
    # train/ant/0, train/ant/1, then the bees
    assert data.splits["train"].labels.tolist() == [1, 1, 0, 0, 0]
    (root / "names.txt").write_text("\ufeffbee\r\n\r\nant\r\n")
    assert open_images(write(root, 'classes = "names.txt"\n' + FOLDERS)).digest == data.digest
    assert "lacks cow" in str(faults(root, 'classes = ["bee", "ant", "cow"]\n' + FOLDERS)[0])
    assert "adds bee" in str(faults(root, 'classes = ["ant"]\n' + FOLDERS)[0])
    assert "twice" in str(faults(root, 'classes = ["bee", "ant", "bee"]\n' + FOLDERS)[0])
    assert "no.txt" in str(faults(root, 'classes = "no.txt"\n' + FOLDERS)[0])


def test_explicit_numbers_are_no_trap(tmp_path):
    write_image_folder(tmp_path, {"train": {"1": 1, "2": 1, "10": 1}})
    for classes in ('"1", "10", "2"', '"1", "2", "10"'):
        data, findings = survey_images(write(tmp_path, f'classes = [{classes}]\n[train]\nfolder = "train"'))
        assert findings == []
    assert labels(data, "train") == {"train/1/0.png": 0, "train/2/0.png": 1, "train/10/0.png": 2}


LISTS = """
root = "images"
[train]
list = "lists/train.txt"
rewrite = ["data_256/", "train/"]
[val]
list = "lists/val.txt"
"""
TRAIN_LIST = "data_256/ant/0.png 0\ndata_256/ant/1.png 0\n\ndata_256/bee/0.png 1\n  \ndata_256/bee/1.png\t1\n"


@pytest.fixture
def listed(root):
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text(TRAIN_LIST)
    (root / "lists" / "val.txt").write_text("val/ant/0.png 0\nval/bee/0.png 1")
    return root


def test_lists_are_read_with_the_prefix_rewritten(listed):
    data = open_images(write(listed, LISTS))
    assert data.class_names == ["0", "1"]
    assert labels(data, "train") == {
        "train/ant/0.png": 0,
        "train/ant/1.png": 0,
        "train/bee/0.png": 1,
        "train/bee/1.png": 1,
    }
    assert labels(data, "val") == {"val/ant/0.png": 0, "val/bee/0.png": 1}
    np.testing.assert_array_equal(np.asarray(data.splits["train"].images.open(3)), np.asarray(noise_image(1)))


def test_labels_of_lists_are_positions_in_an_explicit_table(listed):
    data = open_images(write(listed, 'classes = ["bee", "ant"]\n' + LISTS))
    # label 0 is the first of the table, whatever the folders are called
    assert data.class_names == ["bee", "ant"]
    assert labels(data, "train")["train/ant/0.png"] == 0
    assert "adds 1" in faults(listed, 'classes = ["bee"]\n' + LISTS)[0].message


def test_integers_of_a_manifest_are_positions_unless_the_classes_are_integers(root):
    (root / "m.csv").write_text("path,label\nimages/train/ant/0.png,1\nimages/train/bee/0.png,0\n")
    spec = '[train]\nmanifest = "m.csv"'
    for classes, expected in {'"bee", "ant"': [1, 0], '"1", "0"': [0, 1]}.items():
        assert open_images(write(root, f"classes = [{classes}]\n{spec}")).splits["train"].labels.tolist() == expected


def test_labels_of_a_list_are_positions_even_if_the_classes_are_integers(listed):
    data = open_images(write(listed, 'classes = ["1", "0"]\n' + LISTS))
    assert labels(data, "train")["train/ant/0.png"] == 0


def test_a_list_without_root_is_relative_to_its_own_folder(root):
    write_images(root / "lists" / "ant", 1)
    write_images(root / "lists" / "my bees", 1)
    (root / "lists" / "l.txt").write_text("ant/0.png 0\nmy bees/0.png 1\n")
    data = open_images(write(root, '[train]\nlist = "lists/l.txt"'))
    # the last blank splits
    assert labels(data, "train") == {"lists/ant/0.png": 0, "lists/my bees/0.png": 1}
    data.splits["train"].images.open(1)


def test_an_unlabeled_list_may_have_labels_or_not(root):
    write_images(root / "my pool", 3)
    (root / "train.txt").write_text("images/train/ant/0.png 0\nimages/train/bee/0.png 1\n")
    (root / "pool.txt").write_text("my pool/0.png\nmy pool/1.png 4\nmy pool/2.png -1\n")
    spec = write(root, '[train]\nlist = "train.txt"\n[unlabeled]\nlist = "pool.txt"')
    data, findings = survey_images(spec)
    assert data.splits["unlabeled"].ids == ["my pool/0.png", "my pool/1.png"]
    assert ["2.png -1" in str(finding) for finding in findings] == [True]
    (root / "pool.txt").write_text("my pool/0.png\nmy pool/1.png 4\n")
    assert open_images(spec).splits["unlabeled"].labels is None


# (the train list, kind, what the message must say)
LIST_FAULTS = {
    "no label": (TRAIN_LIST + "data_256/bee/2.png\n", "label", ["line 7"]),
    "a name": (TRAIN_LIST + "data_256/bee/2.png bee\n", "label", ["line 7"]),
    "a float": (TRAIN_LIST + "data_256/bee/2.png 1.0\n", "label", ["line 7"]),
    "negative": (TRAIN_LIST + "data_256/bee/2.png -1\n", "label", ["line 7"]),
    "no file": (TRAIN_LIST + "data_256/bee/9.png 1\n", "missing file", ["line 7", "train/bee/9.png"]),
    "twice": (TRAIN_LIST + "data_256/bee/0.png 1\n", "repeated image", ["line 4", "line 7"]),
    "in val": (TRAIN_LIST + "val/ant/0.png 0\n", "image in two splits", ["line 7", "line 1"]),
    "a hole": (TRAIN_LIST.replace(" 0", " 2"), "label hole", ["1 of them never", "0", "one too high"]),
    "a huge hole": (TRAIN_LIST + "data_256/bee/2.png 100000000000\n", "label hole", ["up to 100000000000", ": 2"]),
    "empty": ("\n", "no rows", ["train.txt"]),
}


@pytest.mark.parametrize("case", LIST_FAULTS)
def test_faulty_lines_are_named_by_number(listed, case):
    content, kind, words = LIST_FAULTS[case]
    (listed / "lists" / "train.txt").write_text(content)
    matching = [finding for finding in faults(listed, LISTS) if finding.kind == kind]
    assert len(matching) == 1
    for word in words:
        assert word in str(matching[0])


def test_a_list_that_cannot_be_read_is_one_finding(listed):
    (listed / "lists" / "train.txt").write_bytes("\u00fc 1\n".encode("latin-1"))
    assert "UTF-8" in str(faults(listed, LISTS)[0])
    (listed / "lists" / "train.txt").unlink()
    assert "train.txt" in str(faults(listed, LISTS)[0])


def test_a_class_that_val_of_the_lists_lacks_is_named(listed):
    (listed / "lists" / "val.txt").write_text("val/ant/0.png 0\n")
    (finding,) = faults(listed, LISTS)
    assert (finding.kind, finding.split, finding.class_name) == ("classes", "val", "1")


MANIFESTS = """
[train]
manifest = "tables/all.csv"
rewrite = ["old/", ""]
[test]
manifest = "tables/all.csv"
rewrite = ["old/", ""]
[val]
folder = "images/val"
"""


def test_manifests_give_the_rows_of_the_split_and_mix_with_folders(root):
    write_images(root / "tables" / "x", 4)
    rows = "path,label,split\nold/x/0.png,ant,train\nx/1.png,bee,train\nx/2.png,ant,test\nx/3.png,bee,test\n"
    (root / "tables" / "all.csv").write_text(rows)
    data = open_images(write(root, MANIFESTS))
    assert labels(data, "train") == {"tables/x/0.png": 0, "tables/x/1.png": 1}
    assert labels(data, "test") == {"tables/x/2.png": 0, "tables/x/3.png": 1}
    assert labels(data, "val") == {"images/val/ant/0.png": 0, "images/val/bee/0.png": 1}
    data.splits["test"].images.open(1)


def test_a_manifest_without_split_column_is_all_of_its_split(root):
    (root / "val.csv").write_text("path,label\nimages/test/ant/0.png,ant\nimages/test/bee/0.png,bee\n")
    spec = '[train]\nfolder = "images/train"\n[val]\nmanifest = "val.csv"'
    data = open_images(write(root, spec))
    assert labels(data, "val") == {"images/test/ant/0.png": 0, "images/test/bee/0.png": 1}


def test_absolute_paths_stay_absolute_beside_a_spec(root):
    (root / "tables").mkdir()
    (root / "tables" / "m.csv").write_text(f"path,label\n{root}/images/train/ant/0.png,ant\n")
    data = open_images(write(root, '[train]\nmanifest = "tables/m.csv"'))
    assert data.splits["train"].ids == [f"{root}/images/train/ant/0.png"]


def test_unlabeled_rows_need_no_label_column(root):
    (root / "pool.csv").write_text("path\nimages/pool/0.png\n")
    spec = '[train]\nfolder = "images/train"\n[unlabeled]\nmanifest = "pool.csv"'
    assert open_images(write(root, spec)).splits["unlabeled"].ids == ["images/pool/0.png"]


def test_a_manifest_that_two_splits_name_makes_each_finding_once(root):
    (root / "all.csv").write_text("path,label,split\nimages/train/ant/0.png,ant,train\nx.png,ant,vall\n")
    spec = '[train]\nmanifest = "all.csv"\n[test]\nmanifest = "all.csv"'
    assert [finding.kind for finding in faults(root, spec)] == ["split name", "no rows"]


def test_rows_of_a_split_that_is_not_asked_for_are_left_alone(root):
    (root / "all.csv").write_text("path,label,split\nimages/train/ant/0.png,ant,train\nno.png,ant,test\n,,val\n")
    assert survey_images(write(root, '[train]\nmanifest = "all.csv"'))[1] == []


def test_a_folder_may_be_the_root_itself_and_must_be_there(root):
    data = open_images(write(root, 'root = "images/train"\n[train]\nfolder = "."\n[val]\nfolder = "../val"'))
    assert data.splits["train"].ids[0] == "ant/0.png"
    assert data.splits["val"].ids[0] == "../val/ant/0.png"
    assert {finding.kind for finding in faults(root, '[train]\nfolder = "nowhere"')} == {"no folder"}


def test_the_same_images_in_two_splits_are_found_across_folders_and_lists(root):
    (root / "val.txt").write_text("images/train/ant/0.png 0\nimages/val/bee/0.png 1\n")
    spec = 'classes = ["ant", "bee"]\n[train]\nfolder = "images/train"\n[val]\nlist = "val.txt"'
    (finding,) = faults(root, spec)
    assert finding.kind == "image in two splits"
    assert "images/train/ant/0.png" in finding.message


def test_every_fault_of_the_file_is_named_at_once(root):
    message = refusal(
        root,
        'rot = 1\n[train]\nlist = "a"\nfolder = "b"\n[semi]\nhead_count = 0\n[val]\nfoldr = "x"\n[longtial]\nx = 1',
    )
    for words in [
        "unknown key rot: did you mean root?", "train: give one of folder, list and manifest",
        "semi.head_count must be greater than or equal to 1, got 0", "semi.imbalance_factor is missing",
        "unknown key val.foldr: did you mean val.folder?", "unknown key longtial: did you mean longtail?",
    ]:  # fmt: skip
        assert words in message
    assert "train.list" not in message


LONGTAIL = "[longtail]\nhead_count = 2\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "give source, or a table"),
        ('source = "x"\nroot = "y"', "root cannot be given beside it"),
        ('source = "x"\n[val]\nfolder = "y"', "val cannot be given beside it"),
        ('[train]\nfolder = "x"\nrewrite = ["a", "b"]', "rewrite goes with list or manifest"),
        ('[train]\nlist = "x"\nrewrite = ["a"]', "train.rewrite"),
        ('source = "images"\nsplits = "s"\n' + LONGTAIL + "imbalance_factor = 2", "one of splits"),
        ('source = "images"\n' + LONGTAIL, "head_count, imbalance_factor"),
        (
            'source = "images"\n' + LONGTAIL + 'profile = "pareto"\nimbalance_factor = 2',
            "head_count, exponent, tail_count",
        ),
        ('source = "images"\n' + LONGTAIL + 'profile = "steps"\nimbalance_factor = 2', "exponential"),
        ('source = "images"\n' + LONGTAIL + 'profile = "pareto"\ntail_count = 1\nexponent = 0', "exponent must be"),
        ('source = "images"\n' + LONGTAIL + "imbalance_factor = 0.5", "did you mean 2"),
        ('source = "images"\n' + LONGTAIL + "imbalance_factor = inf", "finite"),
        ('source = "images"\n' + LONGTAIL + "imbalance_factor = 2\nval_per_class = 1", "split val already"),
        ('source = "images"\n[longtail]\nhead_count = 9\nimbalance_factor = 2', "class ant has 2 images"),
        ('source = "data.toml"', "its own source"),
        ('source = "."', "its own source"),
        ("source = ", "cannot be read"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(root, text, words):
    assert words in refusal(root, text)


def test_a_missing_spec_is_refused(root):
    with pytest.raises(UsageError, match=r"no\.toml"):
        open_images(str(root / "no.toml"))


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_a_source_is_relative_to_the_spec(root, kind, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(DataError, match=f"{root / 'sub'} holds no {kind}"):
        open_images(write(root, f'source = "{kind}:sub"'))
    assert open_images(write(root, 'source = "images"')).digest == open_images(str(root / "images")).digest


def test_nothing_is_drawn_from_faulty_data(root):
    write_images(root / "images" / "val" / "cow", 1)
    data, findings = survey_images(write(root, 'source = "images"\n' + LONGTAIL + "imbalance_factor = 2"))
    assert [finding.kind for finding in findings if finding.severity == "error"] == ["classes"]
    assert len(data.splits["train"].ids) == 5


def test_a_list_beside_a_folder_with_the_same_images(root):
    (root / "l.txt").write_text("images/train/ant/0.png 0\nimages/train/bee/0.png 1\n")
    text = '[train]\nlist = "l.txt"\n[unlabeled]\nfolder = "images/train"\n'
    data, findings = survey_images(write(root, text))
    (finding,) = [own for own in findings if own.kind == "image in two splits"]
    assert finding.severity == "warning"
    assert "line 1" in finding.message
    assert len(data.splits["unlabeled"].ids) == 5


def test_brackets_without_end_are_one_line(root):
    assert "cannot be read" in refusal(root, "a = " + "[" * 5000)


@pytest.mark.parametrize("old", ["data_257/", "images/"])
def test_a_rewrite_that_fits_no_line_is_named(root, old):
    (root / "l.txt").write_text("data_256/train/ant/0.png 0\ndata_256/train/bee/0.png 1\n")
    own = faults(root, f'[train]\nlist = "l.txt"\nrewrite = ["{old}", "images/"]\n')
    assert own[0].kind == "missing file"
    assert own[0].remedy == f"mend `rewrite`: no path begins with {old}"
    assert not faults(root, '[train]\nlist = "l.txt"\nrewrite = ["data_256/", "images/"]\n')
