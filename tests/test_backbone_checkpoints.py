"""Checkpoints of other people: how they are named, how their tensors find their places, and whose classes they know."""

import logging

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from builders import noise_image, scattered, write_backbone_folder, write_image_folder

from selmix.backbones import Preprocessing, build_model, load_backbone
from selmix.checkpoints import save_tensors
from selmix.errors import DataError, UsageError
from selmix.extraction import features_of_images
from selmix.recipe import ExtractRecipe

NAMES = ["ant", "bee", "cat"]


def images(size: int = 32) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return scattered(build_model("cifar_resnet20", num_classes=3), 0).eval()


@torch.no_grad()
def assert_same_logits(backbone, model) -> None:
    torch.testing.assert_close(backbone.head.logits(backbone.model(images())), model(images()))


@pytest.fixture
def checkpoint(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def test_a_path_with_its_architecture_is_the_same_backbone_as_a_timm_name_with_its_file(checkpoint):
    by_path = load_backbone(str(checkpoint), arch="cifar_resnet20")
    assert by_path.digest == load_backbone(f"timm:cifar_resnet20@{checkpoint}").digest
    assert by_path.name == str(checkpoint)


def test_the_home_folder_may_be_a_tilde(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    for spec, arch in (("~/net.pth", "cifar_resnet20"), ("timm:cifar_resnet20@~/net.pth", None)):
        assert load_backbone(spec, arch=arch).unnamed_classes == 3


@pytest.mark.parametrize(
    ("spec", "arch", "error", "message"),
    [
        ("net.pth", None, UsageError, "add --arch NAME"),
        ("net.pth", "cifar_resnet21", UsageError, "did you mean cifar_resnet"),
        ("net.pth", "cifar_resnet32", DataError, "does not fit CifarResNet: missing"),
        ("none.pth", "cifar_resnet20", DataError, "no such checkpoint or folder: none.pth"),
        ("none.pth", None, DataError, "no such checkpoint or folder: none.pth"),
        ("some/net", None, DataError, "no such checkpoint or folder: some/net"),
        ("resnet18", None, UsageError, "did you mean timm:resnet18"),
        ("fashion_resnet32", None, UsageError, "did you mean shipped:fashion_resnet32"),
        ("timm:cifar_resnet20@net.pth", "cifar_resnet20", UsageError, "leave --arch out"),
        ("shipped:fashion_resnet32", "cifar_resnet32", UsageError, "leave --arch out"),
        (".", "cifar_resnet20", UsageError, "leave --arch out"),
        (".", None, DataError, "manifest.json"),
        ("", "cifar_resnet20", DataError, "no such checkpoint"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said_in_one_line(checkpoint, monkeypatch, spec, arch, error, message):
    monkeypatch.chdir(checkpoint.parent)
    with pytest.raises(error, match=message) as caught:
        load_backbone(spec, arch=arch)
    assert "\n" not in str(caught.value)


def test_a_folder_of_stage_one_is_named_by_its_path(tmp_path):
    model = write_backbone_folder(tmp_path / "net")
    backbone = load_backbone(str(tmp_path / "net"))
    assert backbone.name == str(tmp_path / "net")
    assert_same_logits(backbone, model)


@pytest.mark.parametrize("table", [["ant", "bee"], [*NAMES, "dog"]])
def test_a_class_table_of_another_length_than_the_classifier_is_refused(tmp_path, table):
    write_backbone_folder(tmp_path / "net", class_names=table)
    with pytest.raises(DataError, match=f"classifier of 3 outputs, and a class table of {len(table)} names"):
        load_backbone(str(tmp_path / "net"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": "grey"}, "mean"),
        ({"mean": [0.5, 0.5]}, "mean must be three numbers"),
        ({"input_size": 32}, "input_size|subscriptable"),
        ({"class_names": "abc"}, "every class"),
        ({"class_names": ["a", "a", "b"]}, "names a more than once"),
        ({"architecture": 5}, "architecture must be a name"),
    ],
)
def test_a_faulty_manifest_is_refused(tmp_path, changes, message):
    write_backbone_folder(tmp_path / "net", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_backbone(str(tmp_path / "net"))
    assert "manifest.json" in str(caught.value)


def test_weights_that_say_what_they_are_need_no_word_more(tmp_path, model):
    own = {"architecture": "cifar_resnet20", "class_names": NAMES, "input_size": [3, 28, 30]}
    own |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    save_tensors(model.state_dict(), tmp_path / "net.safetensors", own)
    for spec in (str(tmp_path / "net.safetensors"), f"timm:cifar_resnet20@{tmp_path / 'net.safetensors'}"):
        backbone = load_backbone(spec)
        assert backbone.class_names == NAMES
        assert_same_logits(backbone, model)
        assert backbone.preprocessing["input_size"] == (3, 28, 30)
        assert backbone.preprocessing["mean"] == (0.1, 0.2, 0.3)
        assert backbone.preprocessing["std"] == (0.4, 0.5, 0.6)


def write_table(checkpoint, text: str) -> None:
    checkpoint.with_name(f"{checkpoint.name}.classes.txt").write_text(text, "utf-8")


def test_a_file_beside_the_checkpoint_names_its_classes(checkpoint, model):
    write_table(checkpoint, "\ufeffcat\r\nant \n\nbee\n")
    backbone = load_backbone(str(checkpoint), arch="cifar_resnet20")
    assert backbone.class_names == ["cat", "ant", "bee"]
    with torch.no_grad():
        logits, features = model(images()), backbone.model(images())
    # output 0 is the cat's: in the data's order ant, bee, cat the outputs are 1, 2, 0
    torch.testing.assert_close(backbone.head_for(NAMES).logits(features), logits[:, [1, 2, 0]])
    torch.testing.assert_close(backbone.head_for(["cat", "ant", "bee"]).logits(features), logits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant\nbee\nant\n", "names ant more than once"),
        ("\n", "must name every class"),
        ("a\nb\n", "a class table of 2"),
    ],
)
def test_a_faulty_class_table_is_refused(checkpoint, text, message):
    write_table(checkpoint, text)
    with pytest.raises(DataError, match=message):
        load_backbone(str(checkpoint), arch="cifar_resnet20")


def test_a_class_table_for_weights_without_a_classifier_is_refused(checkpoint, model):
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("linear.")}
    torch.save(state, checkpoint)
    write_table(checkpoint, "ant\nbee\ncat\n")
    with pytest.raises(DataError, match="no linear classifier, and a class table of 3"):
        load_backbone(str(checkpoint), arch="cifar_resnet20")


def test_a_classifier_whose_classes_nobody_names_is_not_guessed(checkpoint, caplog):
    caplog.set_level(logging.INFO)
    backbone = load_backbone(str(checkpoint), arch="cifar_resnet20")
    assert backbone.head is None
    assert backbone.head_for(["a", "b"]) is None
    assert not caplog.messages
    assert backbone.head_for(NAMES) is None
    assert "3 outputs" in caplog.text
    assert "CHECKPOINT.classes.txt" in caplog.text


@pytest.mark.parametrize(
    ("data", "said"), [(["ant", "bee", "Cat"], "differ in Cat, cat"), (["ant", "bee"], "differ in cat"), (["x"], "")]
)
def test_a_class_table_that_is_nearly_the_same_is_told_of(checkpoint, caplog, data, said):
    caplog.set_level(logging.INFO)
    write_table(checkpoint, "ant\nbee\ncat\n")
    assert load_backbone(str(checkpoint), arch="cifar_resnet20").head_for(data) is None
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_the_head_of_a_checkpoint_goes_into_stage_two_in_the_order_of_the_data(checkpoint, model, tmp_path):
    folder = write_image_folder(tmp_path / "images", {"train": {"ant": 2, "bee": 2, "cat": 1}, "val": {"cat": 1}})
    for name in ("ant", "bee"):
        (folder / "val" / name).mkdir()
        noise_image(9).save(folder / "val" / name / "0.png")
    write_table(checkpoint, "cat\nant\nbee\n")
    recipe = ExtractRecipe(backbone=str(checkpoint), arch="cifar_resnet20", data=str(folder))
    data = features_of_images(recipe, device=torch.device("cpu"))
    assert data.class_names == NAMES
    assert torch.equal(data.head.weight, model.linear.weight[[1, 2, 0]])
    assert torch.equal(data.head.bias, model.linear.bias[[1, 2, 0]])
    changed = recipe.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    other = features_of_images(changed, device=torch.device("cpu"))
    assert other.digests["backbone"] != data.digests["backbone"]
    assert not torch.equal(other.splits["train"].features, data.splits["train"].features)


def test_mislas_weights_with_their_class_order(checkpoint, model):
    """Its loaders number classes by frequency: the head is in rank order, which the class table says."""
    state = model.state_dict()
    trunk = {f"module.{name}": tensor for name, tensor in state.items() if not name.startswith("linear.")}
    scale = torch.tensor([2.0, 0.5, 3.0])
    content = {
        "state_dict_model": trunk,
        "state_dict_classifier": {"module.fc.weight": state["linear.weight"], "module.fc.bias": state["linear.bias"]},
        "state_dict_lws_model": {"module.learned_norm": scale[None]},
        "its_ece": np.float64(1.2),
    }
    torch.save(content, checkpoint)
    write_table(checkpoint, "bee\ncat\nant\n")
    backbone = load_backbone(f"timm:cifar_resnet20@{checkpoint}")
    with torch.no_grad():
        expected = (model(images()) * scale)[:, [2, 0, 1]]
        torch.testing.assert_close(backbone.head_for(NAMES).logits(backbone.model(images())), expected)


@pytest.mark.parametrize(
    "classifier",
    [
        {"linear.weight": torch.zeros(64, 3)},  # LDAM's: normed weights [d, k], no bias
        {"linear.weight": torch.zeros(3, 64, 1, 1), "linear.bias": torch.zeros(3)},  # a convolution
        {"linear.0.weight": torch.zeros(3, 64), "linear.0.bias": torch.zeros(3)},  # one of several layers
    ],
)
def test_a_classifier_that_is_not_linear_with_a_bias_is_left_alone(checkpoint, model, classifier):
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("linear.")}
    torch.save(state | classifier, checkpoint)
    assert load_backbone(str(checkpoint), arch="cifar_resnet20").unnamed_classes == 0


def test_what_stands_between_features_and_classifier_is_left_out_with_it(tmp_path):
    """A few models have a norm there, so that their classifier is no linear map of the features."""
    model = scattered(timm.create_model("efficientvit_m0", num_classes=3), 0).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "net.safetensors")
    backbone = load_backbone(f"timm:efficientvit_m0@{tmp_path / 'net.safetensors'}")
    assert backbone.unnamed_classes == 0
    model.reset_classifier(0)
    assert set(backbone.model.state_dict()) == set(model.state_dict())


@pytest.fixture(scope="module")
def lite() -> torch.nn.Module:
    return scattered(timm.create_model("tf_efficientnet_lite0", num_classes=3), 0).eval()


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give every tensor another name, but keep the ending that batch counters are known by."""
    return {f"_{index}.{name.rpartition('.')[2]}": tensor for index, (name, tensor) in enumerate(state.items())}


@pytest.mark.parametrize("counters", [True, False])
def test_efficientnet_lite_is_fitted_in_order(checkpoint, lite, caplog, counters):
    caplog.set_level(logging.INFO)
    kept = {name: t for name, t in lite.state_dict().items() if counters or not name.endswith("num_batches_tracked")}
    torch.save(renamed(kept), checkpoint)
    write_table(checkpoint, "ant\nbee\ncat\n")
    backbone = load_backbone(f"timm:tf_efficientnet_lite0@{checkpoint}")
    own = lite.state_dict()
    loaded = backbone.model.state_dict()
    assert all(torch.equal(loaded[name], own[name]) for name in loaded if not name.endswith("num_batches_tracked"))
    assert torch.equal(backbone.head.weight, own["classifier.weight"])
    assert torch.equal(backbone.head.bias, own["classifier.bias"])
    assert "fitted in order" in caplog.text
    # TensorFlow's weights: pixels scaled to [-1, 1]
    assert backbone.preprocessing["mean"] == backbone.preprocessing["std"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("order", [iter, reversed])
def test_efficientnet_lite_under_its_own_names_needs_no_order(checkpoint, lite, caplog, order):
    caplog.set_level(logging.INFO)
    torch.save(dict(order(list(lite.state_dict().items()))), checkpoint)
    backbone = load_backbone(f"timm:tf_efficientnet_lite0@{checkpoint}")
    assert torch.equal(backbone.model.conv_stem.weight, lite.conv_stem.weight)
    assert not caplog.text


def test_tensors_of_other_shapes_or_of_other_models_are_not_fitted_in_order(checkpoint, lite, model):
    state = renamed(lite.state_dict())
    first = next(iter(state))
    torch.save(state | {first: state[first][:-1]}, checkpoint)
    with pytest.raises(DataError, match="does not fit EfficientNet: missing conv_stem.weight.*unexpected _0.weight"):
        load_backbone(f"timm:tf_efficientnet_lite0@{checkpoint}")
    torch.save(renamed(model.state_dict()), checkpoint)
    with pytest.raises(DataError, match="does not fit CifarResNet: missing conv1.weight"):
        load_backbone(f"timm:cifar_resnet20@{checkpoint}")


@pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "mobilenetv4_conv_small", "ghostnet_100", "hgnetv2_b0"])
def test_a_head_on_wider_features_than_the_trunk_ends_with_is_a_head(tmp_path, arch):
    model = timm.create_model(arch, num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    write_table(tmp_path / "x.pth", "ant\nbee\ncat\n")
    backbone = load_backbone(str(tmp_path / "x.pth"), arch=arch)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        logits = backbone.head_for(NAMES).logits(backbone.model(images))
        torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)


def test_a_transformer_that_was_trained_at_another_size_opens_at_that_size(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=96).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    spec = f"timm:vit_tiny_patch16_224@{tmp_path / 'x.pth'}"
    backbone = load_backbone(spec, overrides=Preprocessing(input_size=(96, 96)))
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.model(images), model(images))
    with pytest.raises(DataError, match="misshapen pos_embed"):
        load_backbone(spec)


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(tmp_path, kind):
    state = timm.create_model("cifar_resnet20", num_classes=0).state_dict()
    odd = {key: value.to(kind) if value.is_floating_point() else value for key, value in state.items()}
    torch.save(odd, tmp_path / "x.pth")
    with pytest.raises(DataError, match="no real numbers in conv1.weight"):
        load_backbone(str(tmp_path / "x.pth"), arch="cifar_resnet20")


def test_a_head_that_is_not_finite_is_refused(checkpoint, model):
    state = model.state_dict()
    state["linear.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    torch.save(state, checkpoint)
    with pytest.raises(DataError, match="the classifier of .* has NaN or infinite values"):
        load_backbone(str(checkpoint), arch="cifar_resnet20")
