"""The audit of pseudo-labels: its figures, its table, its samples; labels for the audit touch nothing else."""

import base64
import csv
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import gaussian_splits, noise_image, write_backbone_folder
from PIL import Image
from test_commands import features, run
from threads import in_ranks

from selmix import SelMixClassifier
from selmix.audit.choice import chosen
from selmix.audit.document import PoolAudit, audit_pool
from selmix.audit.table import write_table
from selmix.audit.words import headline, remedy
from selmix.commands.pool import pool_lines, pool_table
from selmix.data.images import ArrayImages, FileImages
from selmix.features.labeled import FeatureData, UnlabeledFeatures
from selmix.metrics import METRICS
from selmix.pipeline import tune
from selmix.pseudo.opinion import Opinion
from selmix.pseudo.precision import Precision
from selmix.pseudo.selection import Candidates
from selmix.pseudo.settings import PseudoSettings
from selmix.report.samples import SAMPLES, write_samples
from selmix.stage2.pool_labels import PoolLabels
from selmix.stage2.settings import RefineSettings

QUICK = ["steps=50", "start_steps=50", "folds=3"]
NAMES = ["<script>alert(1)</script>", 'b "and", c', "plain"]
SETTINGS = RefineSettings(steps=50, start_steps=50, folds=3)


def pooled(*, seed=0):
    """Return three classes, and a pool of these with 60 samples of none; names that must be escaped."""
    splits = gaussian_splits([60, 30, 15], seed=seed, spread=1.2, per_class=40, val=20)
    pool = splits.pop("test")
    strangers = 6 * torch.randn(60, 8, generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([pool.features, strangers])
    audit = torch.cat([pool.labels, torch.full((60,), -1)])
    ids = [f"un,labeled/<b>{row}.png" for row in range(len(rows))]
    ids[0] = "\udcff.png"  # a name that is no UTF-8
    images = ArrayImages(np.stack([np.asarray(noise_image(row, (90, 40))) for row in range(len(rows))]))
    names = {name: [str(row) for row in range(len(own.labels))] for name, own in splits.items()}
    return FeatureData(
        NAMES, splits, names | {"unlabeled": ids}, unlabeled=UnlabeledFeatures(rows, audit=audit, images=images)
    )


def tuned(data, **pseudo):
    tuning = tune(data, METRICS["mean_recall"], SETTINGS, seed=0, pseudo=PseudoSettings(**pseudo))
    return tuning, audit_pool(tuning, seed=0)


@pytest.fixture(scope="module")
def audited():
    # so that some are not selected
    return tuned(pooled(), threshold=0.8)


def test_the_figures_are_those_of_a_naive_count(audited):
    tuning, audit = audited
    document = json.loads(json.dumps(audit.document, allow_nan=False))
    labels, truth = tuning.pool.labels, tuning.data.unlabeled.audit.tolist()
    told = {name: own.tolist() for name, own in audit.told.items()}
    assert list(told) == ["head", "graph"]
    pseudo = {"found": labels.found.classes.tolist(), "selected": labels.of_head[-1].tolist()}
    assert 0 < sum(label >= 0 for label in pseudo["selected"]) < len(truth) == document["count"] == 180
    assert document["audit"]["of_no_class"] == 60
    assert document["audit"]["count"] == [40, 40, 40]
    assert document["audit"]["prior"] == pytest.approx([1 / 3] * 3, abs=1e-12)
    for name, own in pseudo.items():
        given = [(label, true) for label, true in zip(own, truth, strict=True) if label >= 0]
        assert document[name] == len(given)
        judged = document["audit"][name]
        assert judged["accuracy"] == pytest.approx(np.mean([label == true for label, true in given]), abs=1e-12)
        assert judged["share"] == len(given) / 180
        for label in range(3):
            right = sum(own == (label, label) for own in given)
            count = sum(own[0] == label for own in given)
            assert document["classes"][label][name] == count
            assert judged["precision"][label] == pytest.approx(right / count, abs=1e-12)
            assert judged["recall"][label] == pytest.approx(right / 40, abs=1e-12)
    same = [first == second for first, second in zip(*told.values(), strict=True)]
    assert document["agreement"]["overall"] == pytest.approx(np.mean(same))
    for label, share in enumerate(document["agreement"]["by_class"]):
        assert share == pytest.approx(np.mean(np.array(same)[np.array(told["head"]) == label]))
    head = tuning.evaluations and tuning.pool.labeler.plan.pool.space.encode(tuning.data.unlabeled.features)
    assert told["head"] == (head @ labels.weight.T).argmax(1).tolist()


def test_what_is_estimated_stands_beside_its_bounds(audited):
    tuning, audit = audited
    document, labels = audit.document, tuning.pool.labels
    assert document["used"] == tuning.pool.helps
    assert (document["source"], set(document["weights"])) == ("agreement", {"head", "graph"})
    assert [own["name"] for own in document["classes"]] == NAMES
    for label, own in enumerate(document["classes"]):
        low, high = own["prior_interval"]
        assert low <= own["prior"] == float(labels.prior[label]) <= high
        assert high - low < 0.5
        assert own["precision"] == float(labels.precision.estimate[label])
        assert own["precision_lower"] == float(labels.precision.lower[label]) < own["precision"]
        assert own["trusted"] == bool(labels.trusted[label])
    assert document["precision_lower"] < document["precision"] <= 1
    assert sum(own["prior"] for own in document["classes"]) == pytest.approx(1)
    assert 0 <= document["misfit"]["share"] <= 1
    assert 0 < document["share_of_no_class"] <= 60 / 180 + 0.05
    assert document["room"] == tuning.pool.room


def test_the_head_as_it_is_knows_no_prior_and_agrees_with_nobody():
    _, audit = tuned(pooled(), source="head")
    assert {own["prior"] for own in audit.document["classes"]} == {None}
    assert {own["prior_interval"] for own in audit.document["classes"]} == {None}
    assert audit.document["agreement"] is None
    assert audit.document["share_of_no_class"] is None
    assert list(audit.told) == ["head"]


def read_table(folder):
    content = (folder / "pseudo_labels.csv").read_bytes().decode(errors="surrogateescape")
    return list(csv.DictReader(io.StringIO(content, newline="")))


def test_the_table_has_every_sample_of_the_pool(audited, tmp_path):
    tuning, audit = audited
    write_table(tmp_path, audit)
    rows = read_table(tmp_path)
    assert list(rows[0]) == ["id", "pseudo_label", "source", "confidence", "selected", "head", "graph", "audit"]
    assert [row["id"] for row in rows] == tuning.data.ids["unlabeled"]
    labels, truth = tuning.pool.labels, tuning.data.unlabeled.audit.tolist()
    for position, row in enumerate(rows):
        assert row["pseudo_label"] == NAMES[labels.found.classes[position]]
        assert float(row["confidence"]) == pytest.approx(float(labels.found.confidence[position]), abs=5.1e-5)
        assert row["selected"] == str(int(labels.of_head[-1][position] >= 0))
        assert row["source"] == "agreement"
        assert row["audit"] == (NAMES[truth[position]] if truth[position] >= 0 else "(none)")
        for name in ("head", "graph"):
            told = audit.told[name][position]
            assert row[name] == (NAMES[told] if told >= 0 else "")


def kept_samples(folder, audit):
    """Return what `samples.json` keeps of the pool."""
    write_samples(folder, SimpleNamespace(evaluations={}), audit)
    return json.loads((folder / SAMPLES).read_text())["pool"]


def test_samples_are_kept_with_their_pictures(audited, tmp_path):
    tuning, audit = audited
    rows = kept_samples(tmp_path, audit)
    assert [row["label"] for row in rows] == [0, 1, 2]
    labels, pool = tuning.pool.labels, tuning.data.unlabeled
    for row, positions in zip(rows, chosen(audit), strict=True):
        assert len(row["samples"]) == 8
        for own, position in zip(row["samples"], positions.tolist(), strict=True):
            assert own["id"] == tuning.data.ids["unlabeled"][position]
            assert own["confidence"] == float(labels.found.confidence[position])
            assert own["selected"] == bool(labels.of_head[-1][position] >= 0)
            assert own["truth"] == int(pool.audit[position])
            kind, _, content = own["picture"].partition(",")
            assert kind == "data:image/jpeg;base64"
            assert Image.open(io.BytesIO(base64.b64decode(content))).size == (64, 28)


def test_without_images_or_labels_for_the_audit_there_are_neither(audited, tmp_path):
    tuning, audit = audited
    pool = replace(tuning.data.unlabeled, audit=None)
    bare = replace(audit, data=replace(tuning.data, unlabeled=pool), document=audit.document | {"audit": None})
    assert {own["truth"] for row in kept_samples(tmp_path, bare) for own in row["samples"]} == {None}
    without = replace(audit, data=replace(tuning.data, unlabeled=replace(pool, images=None)))
    assert kept_samples(tmp_path, without) == []
    write_table(tmp_path, bare)
    assert "audit" not in read_table(tmp_path)[0]


def test_an_image_that_has_gone_is_left_out(audited, tmp_path):
    tuning, audit = audited
    paths = [tmp_path / f"{row}.png" for row in range(180)]
    noise_image(0).save(paths[0])
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    shown = {position for own in chosen(audit) for position in own.tolist()}
    paths[min(shown)].unlink()
    pool = replace(tuning.data.unlabeled, images=FileImages(paths))
    rows = kept_samples(tmp_path, replace(audit, data=replace(tuning.data, unlabeled=pool)))
    assert sum(len(row["samples"]) for row in rows) == 23


def made(classes, confidence, selected, *, num_classes, images=None, lower=None):
    """Return an audit of given pseudo-labels."""
    classes, size = torch.tensor(classes), len(classes)
    ones = torch.ones(num_classes, dtype=torch.float64)
    found = Candidates(classes, torch.tensor(confidence), torch.zeros(size), torch.zeros(size))
    of_head = torch.where(torch.tensor(selected), classes, -1)
    precision = Precision(ones, ones if lower is None else lower, ones, ones, ones)
    trusted, opinion = ones > 0, Opinion(ones[:1], ones)
    labels = PoolLabels([of_head], found, ones.diag(), ones, ones, precision, trusted, opinion, ones)
    names = [f"class {label}" for label in range(num_classes)]
    ids = {"unlabeled": [str(row) for row in range(size)]}
    data = FeatureData(names, {}, ids, unlabeled=UnlabeledFeatures(torch.zeros(size, 1), images=images))
    return PoolAudit(plain_document(names), data, labels, "head", {"head": classes})


def plain_document(names=("a",), **changes):
    own = {"found": 3, "selected": 2, "precision": 0.9, "precision_lower": 0.8, "trusted": True, "prior": 0.25}
    classes = [{"name": name, "prior_interval": [0.125, 0.5], "evidence": 9.0} | own for name in names]
    document = {
        "used": True,
        "proven": True,
        "difference": 0.02,
        "standard_error": 0.005,
        "room": 0.05,
        "count": 4958,
        "found": 4500,
    }
    document |= {"selected": 4100, "precision": 0.91, "precision_lower": 0.88, "classes": classes, "source": "head"}
    return document | {"agreement": None, "misfit": None, "share_of_no_class": None, "audit": None} | changes


def test_samples_are_spread_from_the_surest_to_the_least_sure():
    confidence = [0.5 + 0.001 * row for row in range(30)] + [0.9, 0.3, 0.6, 0.2] + [0.7, 0.8]
    classes = [0] * 30 + [1] * 4 + [2, -1]
    selected = [True] * 30 + [True, False, True, False] + [False, False]
    first, second, third, none = chosen(made(classes, confidence, selected, num_classes=4))
    # 8 of 30, by rank from the surest, row 29: 0, 29/7, 58/7, ... rounded
    assert first.tolist() == [29 - rank for rank in (0, 4, 8, 12, 17, 21, 25, 29)]
    assert second.tolist() == [30, 32]  # the selected ones, where there are some
    assert third.tolist() == [34]
    assert none.tolist() == []


def test_many_classes_have_few_samples_each(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 64, 64, 3), dtype=np.uint8)
    classes = list(range(100)) * 10
    audit = made(classes, [0.5] * 1000, [True] * 1000, num_classes=100, images=ArrayImages(noise))
    assert {len(own) for own in chosen(audit)} == {5}
    assert sum(len(row["samples"]) for row in kept_samples(tmp_path, audit)) == 500
    assert (tmp_path / SAMPLES).stat().st_size < 2.5e6
    lower = torch.arange(600, dtype=torch.float64)
    many = chosen(made(list(range(600)), [0.5] * 600, [True] * 600, num_classes=600, lower=lower))
    assert [len(own) for own in many] == [1] * 500 + [0] * 100


def test_words_say_what_became_of_the_pool():
    told = headline(plain_document(), "min_recall")
    assert told[0] == (
        "unlabeled pool: 4,958 images, used: heads that learn from its pseudo-labels, too, differ by +2.0 points in "
        "min_recall (standard error 0.5) on labels that they have not learnt"
    )
    assert told[1] == "pseudo-labels: 4,100 of 4,500 used, estimated precision 91 % (lower bound 88 %)"
    assert len(told) == 2
    barred = headline(plain_document(used=False, proven=True, share_of_no_class=0.004), "min_recall")
    assert "but keep the constraints less well" in barred[0]
    assert "may be luck" not in barred[0]
    assert not any("no known class" in line for line in barred)
    taken = headline(plain_document(difference=0.001, proven=False), "min_recall")
    assert taken[0].endswith("taken as long as they are not worse, since it has many images of classes with few labels")
    aside = headline(plain_document(used=False, proven=False, share_of_no_class=0.25), "min_recall")
    assert "left aside" in aside[0]
    assert aside[0].endswith("which may be luck")
    assert "would have been used" in aside[1]
    assert aside[2] == "at least 25 % of the pool look like no known class"
    nobody = {"selected": 0, "difference": None, "precision": None, "used": False}
    nothing = headline(plain_document(**nobody), "min_recall")
    assert "can be trusted" in nothing[0]
    assert nothing[1].endswith("would have been used")
    assert pool_lines({"pseudo_labels": None}) == []


def test_a_remedy_names_the_limit_that_is_known():
    val, stage_one = [20, 20], "recipes/cifar10_lt_ssl/fixmatch_la.toml"
    assert remedy(plain_document(), val) is None
    spent = remedy(plain_document(room=0.009), val)
    assert spent.startswith("features seem to be the limit (more samples could bring a head about 0.9 points")
    assert stage_one in spent
    unproven = remedy(plain_document(used=False), val)
    assert "features seem" not in unproven
    assert "label some images of the pool" in unproven
    assert stage_one in unproven


@pytest.mark.parametrize("room", [0.0, 0.05])
@pytest.mark.parametrize(
    ("changes", "val", "said"),
    [
        ({"count": 1}, [20, 20], "the pool is small: 1 image(s) for 2 classes; add unlabeled images"),
        ({"count": 19}, [1, 1], "the pool is small"),
        ({"share_of_no_class": 0.7}, [20, 20], "most of the pool seems to be of no known class"),
        ({}, [3, 4], "val is too small to tell what the pool can bring: 7 image(s) for 2 classes; add labeled images"),
    ],
)
def test_a_remedy_blames_no_features_where_too_little_is_known(changes, val, said, room):
    told = remedy(plain_document(used=False, room=room, **changes), val)
    assert said in told
    assert "features seem" not in told
    assert "selmix train" not in told


def test_a_remedy_counts_from_the_first_image_that_is_enough():
    assert "small" not in remedy(plain_document(used=False, count=20, share_of_no_class=0.4), [10, 10])


def test_the_table_of_many_classes_shows_the_doubtful_ones():
    document = plain_document([f"[b]{label}" for label in range(25)])
    for label, own in enumerate(document["classes"]):
        own["precision_lower"] = label / 25 if label != 3 else 1.0
    assert list(pool_table(document).columns[0].cells) == [rf"\[b]{label}" for label in range(21) if label != 3]


def stripped(out):
    """Return what must not depend on labels for the audit: head, samples, figures and table."""
    document = json.loads((out / "result.json").read_text())
    audit = document["pseudo_labels"].pop("audit")
    document.pop("seconds")
    (document["features"] or {}).pop("reused", None)
    rows = [{key: value for key, value in row.items() if key != "audit"} for row in read_table(out)]
    files = [(out / name).read_bytes() for name in ("head.safetensors", "splits.json", "metrics.jsonl", "recipe.toml")]
    return (document, rows, files), audit


def test_labels_for_the_audit_change_nothing_else_on_features(tmp_path):
    arrays = features({"train": (100, 40, 20), "val": (20,) * 3, "unlabeled": (60, 30, 30)})
    runs = {}
    shuffled = np.random.default_rng(0).permutation(arrays["unlabeled_labels"])
    for name, labels in (("none", None), ("true", arrays["unlabeled_labels"]), ("false", shuffled)):
        own = {key: array for key, array in arrays.items() if key != "unlabeled_labels"}
        np.savez(tmp_path / "f.npz", **own | ({} if labels is None else {"unlabeled_labels": labels}))
        words = ("--features", tmp_path / "f.npz", "--metric", "min_recall", "--out", tmp_path / name)
        assert run("finetune", *words, *QUICK)[0] == 0
        runs[name] = stripped(tmp_path / name)
    assert runs["none"][0] == runs["true"][0] == runs["false"][0]
    assert runs["none"][1] is None
    assert runs["true"][1]["found"]["accuracy"] > runs["false"][1]["found"]["accuracy"] + 0.2


def test_labels_for_the_audit_change_nothing_else_in_the_estimator():
    arrays = features({"train": (100, 40, 20), "unlabeled": (60, 30, 30)})
    X, y, more = arrays["train_features"], arrays["train_labels"], arrays["unlabeled_features"]
    settings = {"folds": 3, "pseudo.source": "corrected"}
    fitted = [
        SelMixClassifier(steps=50, settings=settings, random_state=0).fit(X, y, X_unlabeled=more, y_unlabeled=own)
        for own in (None, arrays["unlabeled_labels"])
    ]
    np.testing.assert_array_equal(fitted[0].coef_, fitted[1].coef_)
    np.testing.assert_array_equal(fitted[0].intercept_, fitted[1].intercept_)
    documents = [dict(own.pseudo_labels_) for own in fitted]
    assert [own.pop("audit") is None for own in documents] == [True, False]
    assert documents[0] == documents[1]
    assert documents[0]["source"] == "corrected"
    assert SelMixClassifier(steps=50).fit(X, y).pseudo_labels_ is None
    with pytest.raises(ValueError, match="sauce"):
        SelMixClassifier(settings={"pseudo.sauce": 1}).fit(X, y)


def shaded(path, level, seed):
    noise = np.random.default_rng(seed).normal(level, 25, (32, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


def test_labels_for_the_audit_change_nothing_else_on_images_and_the_page_shows_these(tmp_path):
    levels = {"ant": 60, "<bee>": 128, "cat": 190}
    for seed, (name, level) in enumerate(levels.items()):
        for split, count in (("train", 12), ("val", 8)):
            for row in range(count):
                shaded(tmp_path / "data" / split / name / f"{row}.png", level, 1000 * seed + 100 * len(split) + row)
    rows = []
    for row in range(30):
        name = [*levels][row % 3]
        shaded(tmp_path / "pool" / f"{row}.png", levels[name], 5000 + row)
        rows.append((f"pool/{row}.png", name if row else "moth"))
    write_backbone_folder(tmp_path / "backbone")
    for out, labeled in (("without", False), ("with", True)):
        lines = ["path,label" if labeled else "path"] + [",".join(row if labeled else row[:1]) for row in rows]
        (tmp_path / "pool.csv").write_text("\n".join(lines))
        source = (
            "--backbone",
            tmp_path / "backbone",
            "--data",
            tmp_path / "data",
            "--unlabeled",
            tmp_path / "pool.csv",
        )
        code, stdout, stderr = run(
            "finetune", *source, "--metric", "mean_recall", "--out", tmp_path / out, "--device", "cpu", *QUICK
        )
        assert code == 0, stderr
        assert "unlabeled pool: 30 images" in stdout
        assert "pseudo-labels of the unlabeled pool" in stdout
    runs = [stripped(tmp_path / name) for name in ("without", "with")]
    assert runs[0][0] == runs[1][0]
    assert (runs[0][1], runs[1][1]["of_no_class"]) == (None, 1)
    shown = {
        name: [own for row in json.loads((tmp_path / name / SAMPLES).read_text())["pool"] for own in row["samples"]]
        for name in ("with", "without")
    }
    assert 3 <= len(shown["with"]) == len(shown["without"]) <= 24
    # each picture is that of the sample whose name stands beside it, and in the page it stands there
    page = (tmp_path / "with" / "report.html").read_text()
    assert "<bee>" not in page
    for own in shown["with"]:
        assert f'src="{own["picture"]}" alt="unlabeled image {own["id"]}, pseudo-label ' in page
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(own["picture"].partition(",")[2]))), dtype=float)
        assert np.abs(picture - np.asarray(Image.open(tmp_path / own["id"]))).mean() < 25
        assert abs(picture.mean() - np.asarray(Image.open(tmp_path / own["id"])).mean()) < 4


def test_without_a_pool_there_is_no_audit_and_none_is_left_of_an_earlier_run(tmp_path):
    arrays = features({"train": (60, 30), "val": (20, 20), "unlabeled": (30, 30)})
    np.savez(tmp_path / "f.npz", **arrays)
    out = tmp_path / "run"
    words = [
        "finetune",
        "--features",
        tmp_path / "f.npz",
        "--metric",
        "min_recall",
        "--out",
        out,
        "--overwrite",
        *QUICK,
    ]
    assert run(*words)[0] == 0
    assert 'id="pool"' in (out / "report.html").read_text()
    assert len(read_table(out)) == 60
    arrays["unlabeled_features"], arrays["unlabeled_labels"] = np.empty((0, 8), np.float32), np.empty(0, int)
    for more in (["--unlabeled", "none"], []):
        assert run(*words, *more)[0] == 0
        assert json.loads((out / "result.json").read_text())["pseudo_labels"] is None
        assert 'id="pool"' not in (out / "report.html").read_text()
        assert not (out / "pseudo_labels.csv").exists()
        np.savez(tmp_path / "f.npz", **arrays)


def test_several_seeds_have_an_audit_each(tmp_path):
    np.savez(tmp_path / "f.npz", **features({"train": (60, 30), "val": (20, 20), "unlabeled": (30, 30)}))
    words = ("--features", tmp_path / "f.npz", "--metric", "min_recall", "--out", tmp_path / "run", "--seeds", "0,1")
    assert run("finetune", *words, *QUICK)[0] == 0
    for seed in range(2):
        document = json.loads((tmp_path / "run" / f"seed{seed}" / "result.json").read_text())
        assert document["pseudo_labels"]["count"] == 60


@pytest.mark.parametrize("gathered", [True, False])
def test_several_processes_count_together(tmp_path, monkeypatch, gathered):
    if not gathered:
        monkeypatch.setattr("selmix.audit.table._GATHERED", 100)
    whole = pooled()

    def work(ranks):
        tuning, audit = tuned(whole.shard(ranks), source="corrected")
        write_table(tmp_path, audit)
        return tuning, audit

    (first, lead), (second, other) = in_ranks(2, work)
    found = torch.cat([own.pool.labels.found.classes for own in (first, second)])
    assert [own["found"] for own in lead.document["classes"]] == torch.bincount(found, minlength=3).tolist()
    assert lead.document["audit"]["count"] == other.document["audit"]["count"] == [40, 40, 40]
    assert lead.document["count"] == 180
    assert lead.document["share_of_no_class"] is None
    assert lead.document["classes"][0]["prior_interval"] is not None
    shards = [tuning.data.ids["unlabeled"] for tuning in (first, second)]
    if gathered:
        expected = [name.replace("\udcff", "?") for own in shards for name in own]
        assert [row["id"] for row in read_table(tmp_path)] == expected
        return
    assert [row["id"] for row in read_table(tmp_path)] == shards[0]
    (tmp_path / "pseudo_labels.rank1.csv").rename(tmp_path / "pseudo_labels.csv")
    assert [row["id"] for row in read_table(tmp_path)] == shards[1]
