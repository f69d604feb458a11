"""`selmix export`: what is written is the same classifier, says what it is, and opens as its card says."""

import contextlib
import io
import json
import re
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from builders import noise_image, write_npz
from deployed import CLASSES, COUNTS, quick_finetune, run, tuned_run
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform

import selmix.backbones
from selmix.backbones import build_model, load_backbone
from selmix.backbones.backbone import Backbone
from selmix.checkpoints import file_digest, packed_tensors, read_metadata
from selmix.deploy import exporting, onnx_graph
from selmix.deploy.card import _calibration as calibration_words
from selmix.deploy.card import cell
from selmix.deploy.merged import load_merged, merged_state
from selmix.deploy.opening import backbone_of, open_run
from selmix.deploy.snippets import snippet
from selmix.errors import UsageError
from selmix.head_file import public_metric, public_name
from selmix.heads import LinearHead

FILES = {"head": "head.safetensors", "timm": "whole.safetensors", "onnx": "graph.onnx"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a run and all that is exported of it, and what the command line said."""
    folder = tmp_path_factory.mktemp("export")
    tuned_run(folder, "--subject-to", "coverage >= 0.1/k")
    said = {}
    for kind, name in FILES.items():
        code, stdout, stderr = run("export", folder / "run", "--format", kind, "--out", folder / name, "--json")
        assert (code, stderr) == (0, "")
        said[kind] = json.loads(stdout)
    return folder, said


@pytest.fixture
def truth(place):
    """Return normalised test images, and the logits of backbone and head on them."""
    opened = open_run(place[0] / "run")
    backbone = backbone_of(opened)
    paths = sorted((place[0] / "data" / "test").rglob("*.png"))
    pixels = torch.stack([backbone.transform(Image.open(path)) for path in paths])
    with torch.inference_mode():
        return pixels, backbone.model(pixels) @ opened.head.weight.T + opened.head.bias


def test_the_head_is_the_run_s_to_the_bit(place):
    folder, said = place
    ours, theirs = load_file(folder / "run" / "head.safetensors"), load_file(folder / FILES["head"])
    assert all(torch.equal(ours[name], theirs[name]) for name in ("weight", "bias"))
    assert said["head"]["sha256"] == file_digest(folder / FILES["head"])
    assert said["head"]["parity"] is None


def test_the_merged_checkpoint_is_a_timm_model_with_the_same_logits(place, truth):
    folder, said = place
    pixels, logits = truth
    model = timm.create_model("cifar_resnet32", num_classes=3)
    model.load_state_dict(load_file(folder / FILES["timm"]), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(pixels), logits, rtol=1e-6, atol=1e-5)
    assert said["timm"]["create_model"] == {"model_name": "cifar_resnet32", "num_classes": 3}
    # selmix opens it as a backbone with a named head
    backbone = load_backbone(str(folder / FILES["timm"]))
    assert backbone.class_names == CLASSES
    assert backbone.digest == open_run(folder / "run").result["digests"]["backbone"]


def test_the_graph_gives_the_same_logits_for_batches_of_any_size(place, truth):
    folder, said = place
    pixels, logits = truth
    session = onnxruntime.InferenceSession(folder / FILES["onnx"])
    for size in (1, 5, len(pixels)):
        (own,) = session.run(["logits"], {"images": pixels[:size].numpy()})
        np.testing.assert_allclose(own, logits[:size].numpy(), rtol=1e-4, atol=1e-4)
    graph = onnx.load(folder / FILES["onnx"])
    assert [(own.domain, own.version) for own in graph.opset_import] == [("", said["onnx"]["opset"])]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    parity = said["onnx"]["parity"]
    assert parity["samples"] == sum(COUNTS["test"])
    assert parity["agreement"] == 1
    assert 0 < parity["largest_difference"] < 1e-3
    assert parity["largest_logit"] == pytest.approx(float(logits.abs().max()), rel=1e-5)


def test_every_file_says_what_it_is_and_names_no_place(place):
    folder, said = place
    result = json.loads((folder / "run" / "result.json").read_text())
    session = onnxruntime.InferenceSession(folder / FILES["onnx"])
    of_graph = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    for about in (read_metadata(folder / FILES["head"]), read_metadata(folder / FILES["timm"]), of_graph):
        assert about["class_names"] == CLASSES
        assert about["metric"] == "min_recall"
        assert about["scores"] == result["after"]
        assert about["digests"] == result["digests"]
        assert about["temperature"] == result["calibration"]["temperature"]
        assert about["input_size"] == [3, 28, 28]
        assert about["mean"] == [0.299042] * 3
        assert about["std"] == [0.355356] * 3
        assert (about["interpolation"], about["crop_pct"], about["crop_mode"]) == ("bicubic", 1.0, "center")
        assert about["architecture"] == "cifar_resnet32"
        assert about["backbone"] == "shipped:fashion_resnet32"
        assert about["version"] == selmix.__version__
    for name in FILES.values():
        for path in (folder / name, folder / f"{name}.md"):
            assert str(folder).encode() not in path.read_bytes()
            assert b"/site-packages/" not in path.read_bytes()


def test_the_card_says_what_its_temperature_does():
    errors = {"plain": {"ece": 0.041}, "calibrated": {"ece": 0.02}}
    result = {"calibration": {"temperature": 1.5, "val": errors, "test": errors}}
    said = calibration_words(result)[1]
    assert "on val 4.1 % as it is, 2.0 % at temperature 1.5; on test 4.1 % as it is, 2.0 % at" in said
    assert "softmax(logits / 1.5) is fitted to the labels of val" in said
    result["calibration"]["temperature"] = 1.0
    said = calibration_words(result)[1]
    assert "on val 4.1 % as it is; on test 4.1 % as it is." in said
    assert "The temperature is 1, so softmax(logits) stays as it is" in said
    assert "calibrated" not in said


def test_the_card_tells_the_figures_and_escapes_names(place):
    folder, said = place
    result = json.loads((folder / "run" / "result.json").read_text())
    for kind, name in FILES.items():
        assert said[kind]["card"] == str(folder / f"{name}.md")
        card = (folder / f"{name}.md").read_text()
        for title in ("Intended use", "Data", "Results on test", "Recall of each class on test", "Constraints",
                      "Calibration", "Limits", "How to load it", "Provenance", "Licence"):  # fmt: skip
            assert f"\n## {title}\n" in card
        assert "<i>" not in card.replace("print(", "")
        assert r"c\|&lt;i&gt;" in card
        assert r"| c\|&lt;i&gt; | 8 | 8 | 11 |" in card
        row = re.search(r"\| \*\*min\\_recall\*\* \| (.*) \|", card)[1].split(" | ")
        assert row[:3] == [
            f"{100 * result[head]['test']['min_recall']:.1f}" for head in ("before", "balanced", "after")
        ]
        assert row[3] == " to ".join(f"{100 * end:.1f}" for end in result["interval"]["after"]["test"]["min_recall"])
        assert "coverage &gt;= 0.1/k: met on val" in card
        for digest in result["digests"].values():
            assert digest in card
        tables = [line for line in card.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", line)) in (5, 7) for line in tables)


@pytest.mark.parametrize("kind", FILES)
def test_the_snippet_of_the_card_runs_and_says_what_predict_says(place, kind, tmp_path, monkeypatch):
    folder, _ = place
    shutil.copy(folder / FILES[kind], tmp_path)
    image = folder / "data" / "test" / "bee" / "1.png"
    shutil.copy(image, tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / f"{FILES[kind]}.md").read_text(), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, kind, "exec"), {})
    name, probability = printed.getvalue().rsplit(maxsplit=1)
    assert name in CLASSES
    if kind == "head":  # of features that are zero
        return
    document = json.loads(run("predict", folder / "run", image, "--json", "--calibrated")[1])
    (row,) = document["predictions"]
    assert (name, float(probability)) == (row["class"], pytest.approx(row["probability"], abs=1e-5))


def run_snippet(code: str) -> dict[str, object]:
    """Run code, and return its names."""
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "snippet", "exec"), names)
    return names


@pytest.mark.parametrize(
    ("crop_pct", "size"), [(1.0, (40, 31)), (0.875, (57, 90)), (0.9, (301, 200)), (0.95, (28, 28))]
)
def test_the_snippet_s_own_preprocessing_is_that_of_timm(place, crop_pct, size, tmp_path, monkeypatch):
    shutil.copy(place[0] / FILES["onnx"], tmp_path)
    monkeypatch.chdir(tmp_path)
    image = noise_image(3, size)
    image.save("image.png")
    about = {"input_size": [3, 28, 28], "crop_mode": "center", "interpolation": "bicubic"}
    code = snippet("onnx", FILES["onnx"], 64, about, {}).replace('about["crop_pct"]', str(crop_pct))
    config = {"mean": [0.299042] * 3, "std": [0.355356] * 3, "crop_pct": crop_pct, "interpolation": "bicubic"}
    expected = create_transform((3, 28, 28), **config, is_training=False)(image)
    np.testing.assert_allclose(run_snippet(code)["pixels"][0], expected.numpy(), atol=1e-6)


def test_where_timm_s_transform_is_no_plain_one_the_snippet_calls_it(place, tmp_path, monkeypatch):
    shutil.copy(place[0] / FILES["onnx"], tmp_path)
    monkeypatch.chdir(tmp_path)
    noise_image(3, (40, 31)).save("image.png")
    about = {"input_size": [3, 28, 28], "crop_mode": "center", "interpolation": "bicubic"}
    plain, general = (
        run_snippet(snippet("onnx", FILES["onnx"], 64, about | {"crop_mode": mode}, {}))
        for mode in ("center", "squash")
    )
    assert "transform" not in plain
    assert "transform" in general
    np.testing.assert_allclose(plain["probabilities"], general["probabilities"], atol=1e-6)


def frozen(architecture: str, **options: object) -> Backbone:
    """Return a backbone with random weights."""
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=0, **options).eval()
    size = options.get("img_size", model.pretrained_cfg["input_size"][-1])
    return Backbone(architecture, model, lambda image: image, "", {"input_size": (3, size, size)})


@pytest.mark.parametrize(
    "architecture",
    [
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "test_vit",
        "test_vit/64",
        "test_byobnet",
        "test_nfnet",
        "wrn_28_2",
    ],
)
def test_architectures_of_timm_are_merged(architecture):
    architecture, _, size = architecture.partition("/")
    options = {"img_size": int(size)} if size else {}
    backbone = frozen(architecture, **options)
    head = LinearHead(torch.randn(5, backbone.model.num_features), torch.randn(5))
    state, needed = merged_state(backbone, head)
    assert needed == ({"img_size": (64, 64)} if options else {})
    model = load_merged(packed_tensors(state, {}), architecture, 5, needed)
    images = torch.randn(2, *backbone.preprocessing["input_size"], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), head.logits(backbone.model(images)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("deit_tiny_distilled_patch16_224", "has 2 classifiers, and the head is one"),
        ("efficientvit_m0", "more than a linear classifier behind features"),
    ],
)
def test_an_architecture_with_more_behind_its_features_is_refused(architecture, said):
    backbone = frozen(architecture)
    width = backbone.model(torch.zeros(1, *backbone.preprocessing["input_size"])).shape[1]
    with pytest.raises(UsageError, match=f"{said}.*; selmix export --format onnx"):
        merged_state(backbone, LinearHead(torch.randn(5, width), torch.randn(5)))


@pytest.mark.parametrize("kind", ["timm", "onnx"])
def test_another_classifier_is_never_written(place, kind, tmp_path, monkeypatch):
    """A constant that is off by a percent in the exported file alone is seen."""
    right = getattr(exporting, f"_{kind}")

    def wrong(run, net, metadata):
        head = LinearHead(run.head.weight * 1.01, run.head.bias)
        return right(type(run)(run.folder, head, run.result, run.recipe, run.metadata), net, metadata)

    monkeypatch.setattr(exporting, f"_{kind}", wrong)
    out = tmp_path / f"a{exporting.ENDINGS[kind]}"
    done = run("export", place[0] / "run", "--format", kind, "--out", out, "--quiet")
    assert done[:2] == (3, "")
    assert "the exported classifier is another one" in done[2]
    assert "nothing was written" in done[2]
    assert not any(tmp_path.iterdir())


def test_images_to_compare_on_may_be_named(place, tmp_path):
    folder, _ = place
    shutil.copytree(folder / "run", tmp_path / "run")
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    document["origin"]["data"] = str(tmp_path / "gone")
    (tmp_path / "run" / "result.json").write_text(json.dumps(document))
    words = ("export", tmp_path / "run", "--format", "timm", "--out", tmp_path / "a.safetensors")
    done = run(*words, "--quiet")
    assert done[0] == 3
    assert "cannot be opened" in done[2]
    assert "name others with --images" in done[2]
    code, stdout, _ = run(
        *words, "--images", folder / "data" / "val" / "ant", "--images", folder / "data" / "val" / "bee"
    )
    assert code == 0
    assert "compared with backbone and head on 16 images" in stdout
    assert "classes agree on 100 %" in stdout
    (tmp_path / "bad.png").write_bytes(b"")
    done = run(*words, "--images", tmp_path / "bad.png", "--overwrite", "--quiet")
    assert done[0] == 3
    assert "none of the images to compare on can be read" in done[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "tensorflow", "--out", "a.onnx"], "there is no format 'tensorflow': there are: head, timm, onnx"),
        (["--format", "onxn", "--out", "a.onnx"], "did you mean onnx?"),
        (["--format", "onnx", "--out", "a.safetensors"], "--out of the format onnx must end in .onnx"),
        (["--format", "head", "--out", "a.pt"], "--out of the format head must end in .safetensors"),
        (["--format", "head", "--out", "there.safetensors"], "there.safetensors is there already"),
        (["--format", "head", "--out", "card.safetensors"], "card.safetensors.md is there already"),
        (["--format", "head", "--out", "no/a.safetensors"], "lies in no folder that exists"),
    ],
)
def test_bad_input_is_one_line(place, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name in ("there.safetensors", "card.safetensors.md"):
        (tmp_path / name).write_text("mine")
    done = run("export", place[0] / "run", *words, "--quiet")
    assert done[:2] == (2, "")
    assert said in done[2]
    assert done[2].count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.safetensors.md", "there.safetensors"]


def test_without_the_packages_one_line_says_what_to_install(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = run("export", place[0] / "run", "--format", "onnx", "--out", tmp_path / "a.onnx", "--quiet")
    assert done[:2] == (2, "")
    assert done[2] == "error: the ONNX format needs onnxscript: pip install 'selmix[onnx]'\n"


def test_an_architecture_that_cannot_be_exported_is_one_line(place, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(onnx_graph.torch.onnx, "export", fail)
    done = run("export", place[0] / "run", "--format", "onnx", "--out", tmp_path / "a.onnx", "--quiet")
    assert done[0] == 3
    assert "cifar_resnet32 cannot be exported to ONNX (no such operator); take --format timm" in done[2]
    assert not any(tmp_path.iterdir())


def test_a_graph_that_onnxruntime_refuses_is_one_line(place, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "onnx_graph", lambda *_: b"no graph")
    done = run("export", place[0] / "run", "--format", "onnx", "--out", tmp_path / "a.onnx", "--quiet")
    assert done[0] == 3
    assert "onnxruntime does not take the graph" in done[2]
    assert done[2].count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_head_tuned_on_ready_features_is_exported_alone(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("val", 12)):
        labels = np.arange(count) % 2
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_features"] = (labels[:, None] + rng.normal(size=(count, 4))).astype(np.float32)
    quick_finetune(
        "--features", write_npz(tmp_path / "f.npz", arrays), "--metric", "accuracy", "--out", tmp_path / "run"
    )
    out = tmp_path / "a.safetensors"
    assert run("export", tmp_path / "run", "--format", "head", "--out", out, "--quiet") == (0, "", "")
    assert "architecture" not in read_metadata(out)
    card = (tmp_path / "a.safetensors.md").read_text()
    assert "## Results on val" in card
    assert "**Optimistic**" in card
    assert "The backbone is not known" in card
    done = run("export", tmp_path / "run", "--format", "timm", "--out", tmp_path / "b.safetensors", "--quiet")
    assert done[0] == 2
    assert "was tuned on ready features" in done[2]


def test_nobody_s_paths_are_told():
    origin = {"architecture": "resnet18"}
    for spec, name in (
        ("/home/me/w.pth", "resnet18"), ("timm:resnet18@/home/me/w.pth", "timm:resnet18"), ("shipped:x", "shipped:x"),
        ("timm:vit_b.augreg", "timm:vit_b.augreg"),
    ):  # fmt: skip
        assert public_name(origin | {"backbone": spec}) == name
    assert public_metric("/home/me/profit.py:gain") == "profit.py:gain"
    assert public_metric("min_recall") == "min_recall"
    assert cell("a\n# b | `c`") == r"a # b \| \`c\`"
