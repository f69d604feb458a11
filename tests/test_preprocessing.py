"""What happens to an image before the backbone: the model's own data config, and what the user says instead."""

import pickle

import pytest
import timm
import torch
from builders import scattered
from PIL import Image
from typer.testing import CliRunner

from selmix.backbones import Preprocessing, build_model, load_backbone
from selmix.commands import app
from selmix.errors import UsageError
from selmix.option_words import parse_preprocessing
from selmix.recipe import CompareRecipe, FinetuneRecipe, build_recipe


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(scattered(build_model("cifar_resnet20"), 0).state_dict(), path)
    return f"timm:cifar_resnet20@{path}"


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> tuple[torch.nn.Module, str]:
    model = scattered(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0), 0).eval()
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict() | model.state_dict()
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(state, path)
    return model, f"timm:vit_tiny_patch16_224@{path}"


def test_the_models_own_config_is_the_rule(spec):
    backbone = load_backbone(spec)
    assert backbone.preprocessing["input_size"] == (3, 32, 32)
    assert backbone.preprocessing["mean"] == (0.485, 0.456, 0.406)
    assert backbone.digest == load_backbone(spec, overrides=Preprocessing()).digest


def test_overrides_reach_the_pixels(spec):
    overrides = Preprocessing(input_size=(40, 24), mean=(0.4, 0.2, 0.0), std=(0.5, 0.25, 1.0))
    pixels = load_backbone(spec, overrides=overrides).transform(Image.new("RGB", (64, 64), (102, 102, 102)))
    assert pixels.shape == (3, 40, 24)
    # a grey of 102 / 255 = 0.4
    expected = torch.tensor([0.0, (0.4 - 0.2) / 0.25, 0.4]).view(3, 1, 1).expand(3, 40, 24)
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize(
    "overrides",
    [{"input_size": (40, 40)}, {"input_size": (32, 40)}, {"mean": (0.5, 0.456, 0.406)}, {"std": (0.5, 0.224, 0.225)}],
)
def test_every_override_changes_the_digest_and_the_record(spec, overrides):
    plain, changed = load_backbone(spec), load_backbone(spec, overrides=Preprocessing(**overrides))
    assert changed.digest != plain.digest
    assert changed.preprocessing != plain.preprocessing
    (key,) = overrides
    recorded = changed.preprocessing[key]
    assert (recorded[1:] if key == "input_size" else recorded) == overrides[key]
    assert {**changed.preprocessing, key: plain.preprocessing[key]} == plain.preprocessing


def test_the_transform_can_be_pickled(spec):
    transform, image = load_backbone(spec).transform, Image.new("RGB", (9, 7), (1, 2, 3))
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        ({"input_size": (7, 32)}, r"input_size must be height and width of at least 8 pixels, got \[7, 32\]"),
        ({"input_size": (32,)}, "input_size must be height and width"),
        ({"mean": (123.7, 116.3, 103.5)}, r"mean must be three numbers in \[0, 1\], got \[123.7"),
        ({"mean": (-0.1, 0.5, 0.5)}, "mean must be three numbers"),
        ({"mean": (0.5,)}, "mean must be three numbers"),
        ({"mean": ()}, "mean must be three numbers"),
        ({"std": (0.5, 0.0, 0.5)}, r"std must be three numbers in \(0, 1\]"),
        ({"std": (58.4, 57.1, 57.4)}, "std must be three numbers"),
        ({"std": (0.5, float("nan"), 0.5)}, "std must be three numbers"),
    ],
)
def test_impossible_values_are_refused(faulty, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(**faulty)


def test_all_impossible_values_are_named_at_once():
    with pytest.raises(UsageError, match="input_size must.*; mean must.*; std must"):
        Preprocessing((1, 1), (2, 2, 2), (0, 0, 0))


def test_a_model_of_fixed_size_interpolates_its_positions(vit):
    _, spec = vit
    backbone = load_backbone(spec, overrides=Preprocessing(input_size=(64, 96)))
    # patches of 16 pixels: 4 x 6, and the class token
    assert backbone.model.pos_embed.shape == (1, 4 * 6 + 1, 192)
    with torch.no_grad():
        assert backbone.model(torch.zeros(2, 3, 64, 96)).shape == (2, 192)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    assert backbone.digest != load_backbone(spec).digest


def test_a_size_that_the_architecture_does_not_take_is_one_line(tmp_path):
    model = timm.create_model("mixer_s32_224", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    with pytest.raises(UsageError, match="MlpMixer does not take images of 128x128 pixels") as caught:
        load_backbone(f"timm:mixer_s32_224@{tmp_path / 'net.pth'}", overrides=Preprocessing(input_size=(128, 128)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "size"), [("128", (128, 128)), ("96x128", (96, 128))])
def test_a_size_in_words(text, size):
    assert parse_preprocessing(text, None, None) == {"input_size": size, "mean": None, "std": None}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("word", ["", "x", "12.5", "axb", "1x2x3", "a,b,c", "1,1"])
def test_words_that_are_no_numbers_are_refused(position, word):
    words: list[str | None] = [None, None, None]
    words[position] = word
    with pytest.raises(UsageError, match=["--input-size", "--mean", "--std"][position]):
        parse_preprocessing(*words)


@pytest.mark.parametrize(
    ("kind", "asked"), [(FinetuneRecipe, {"metric": "accuracy"}), (CompareRecipe, {"metrics": ["accuracy"]})]
)
def test_recipes_take_the_same_keys(kind, asked):
    keys = {"arch": "resnet18", "input_size": [64, 96], "mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3]}
    recipe = build_recipe(kind, asked | {"backbone": "x.pth", "data": "d"} | keys)
    assert recipe.overrides() == Preprocessing((64, 96), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    for key, value in keys.items():
        with pytest.raises(UsageError, match="goes with --backbone and --data"):
            build_recipe(kind, asked | {"features": "f.npz", key: value})
    with pytest.raises(UsageError, match="mean must be three numbers"):
        build_recipe(kind, asked | {"backbone": "x", "data": "d", "mean": [2, 2, 2]})


@pytest.mark.parametrize("verb", ["finetune", "compare"])
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--input-size", "big"], 2, "--input-size is a number of pixels"),
        (["--input-size", "4"], 2, "--input-size must be height and width of at least 8 pixels, got [4, 4]"),
        (["--std", "0,1,1"], 2, "--std must be three numbers in (0, 1], got [0.0, 1.0, 1.0]"),
        (["--mean", "124,116,104"], 2, "--mean must be three numbers in [0, 1]"),
        (["--std", "0.5"], 2, "--std is three numbers"),
        (["--arch", "resnet18"], 2, "leave --arch out"),
    ],
)
def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, verb, words, code, message):
    monkeypatch.chdir(tmp_path)
    words = [verb, "--metric", "accuracy", "--out", "run", "--data", "shipped:fashion_mnist_lt", *words]
    result = CliRunner().invoke(app, [*words, "--backbone", "shipped:fashion_resnet32"])
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
