"""Images of stage one, on the device and streamed: the same bits, the law of random crops, where they are put."""

import numpy as np
import pytest
import torch
from builders import noise_image
from PIL import Image
from torch import nn

from selmix.data.images import ArrayImages, FileImages, ImageSplit
from selmix.errors import DataError
from selmix.stage1 import placing
from selmix.stage1.images import DeviceImages
from selmix.stage1.objective import Objective
from selmix.stage1.placing import channel_statistics, training_images
from selmix.stage1.settings import SupervisedSettings
from selmix.stage1.state import TrainingState
from selmix.stage1.streaming import RandomCrop, Reader, Resized, StreamedImages
from selmix.stage1.supervised import train_supervised

CPU = torch.device("cpu")
NORMAL = {"mean": (0.5, 0.25, 0.4), "std": (0.5, 0.2, 0.25)}


def noise_split(count: int = 12, size: int = 8) -> ImageSplit:
    pixels = np.stack([np.asarray(noise_image(number, (size, size))) for number in range(count)])
    return ImageSplit([str(number) for number in range(count)], np.arange(count) % 3, ArrayImages(pixels))


def placed(split: ImageSplit, *, streamed: bool, monkeypatch, **options):
    settings = SupervisedSettings(augmentation=options.pop("augmentation", "padded_crop"), crop_padding=1)
    monkeypatch.setattr(placing, "free_memory", lambda device: 0 if streamed else 1 << 30)
    options = {"size": (8, 8), "device": CPU, "augment": True, "workers": 0} | NORMAL | options
    return training_images(split, settings=settings, **options)


def requests(count: int = 12, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (positions, torch.randint(1 << 62, positions.shape, generator=generator))
        for positions in torch.randperm(count, generator=generator).split(5)
    ]


@pytest.mark.parametrize("options", [{}, {"augment": False}, {"augmentation": "none"}, {"size": (6, 10)}], ids=str)
def test_streamed_images_have_the_bits_of_those_on_the_device(options, monkeypatch):
    split = noise_split()
    streamed = placed(split, streamed=True, monkeypatch=monkeypatch, **options)
    on_device = placed(split, streamed=False, monkeypatch=monkeypatch, **options)
    assert isinstance(streamed, StreamedImages)
    assert isinstance(on_device, DeviceImages)
    assert torch.equal(streamed.labels, on_device.labels)
    for one, other in zip(streamed.loads(requests()), on_device.loads(requests()), strict=True):
        assert one.dtype == torch.float32
        assert one.shape[1:] == (3, *options.get("size", (8, 8)))
        assert torch.equal(one, other)


def test_what_is_not_augmented_is_the_image_normalised(monkeypatch):
    split = noise_split()
    mean, std = (np.array(NORMAL[name]) for name in ("mean", "std"))
    for streamed in (True, False):
        images = placed(split, streamed=streamed, monkeypatch=monkeypatch, augment=False)
        for (positions, _), inputs in zip(requests(), images.loads(requests()), strict=True):
            expected = (split.images.pixels[positions.numpy()] / 255 - mean) / std
            np.testing.assert_allclose(inputs.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("augmentation", ["resized_crop_colour", "padded_crop"])
def test_the_number_of_workers_changes_no_bit(augmentation, monkeypatch):
    before = torch.get_rng_state()
    alone, two = (
        list(
            placed(
                noise_split(), streamed=True, monkeypatch=monkeypatch, augmentation=augmentation, workers=workers
            ).loads(requests())
        )
        for workers in (0, 2)
    )
    assert all(torch.equal(one, other) for one, other in zip(alone, two, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_an_image_is_resized_only_where_it_differs():
    exact, wide = noise_image(0, (3, 2)), Image.new("RGB", (12, 4), (10, 20, 30))
    own = Resized((2, 3))(exact)
    for channel in range(3):
        assert own[channel].tolist() == [[exact.getpixel((x, y))[channel] for x in range(3)] for y in range(2)]
    resized = Resized((2, 3))(wide)
    assert resized.dtype == torch.uint8
    assert resized.tolist() == [[[level] * 3] * 2 for level in (10, 20, 30)]


def test_a_random_crop_depends_on_image_and_seed_alone():
    reader = Reader(noise_split().images, Resized((8, 8)), RandomCrop((8, 8), colour=True))
    whole = torch.arange(12), torch.arange(12) + 7
    (together,) = reader.read([whole])
    for position in range(12):
        (one,) = reader.read([(whole[0][position : position + 1], whole[1][position : position + 1])])
        assert torch.equal(one[0], together[position])
    (others,) = reader.read([(whole[0], whole[1] + 100)])
    assert sum(torch.equal(one, other) for one, other in zip(together, others, strict=True)) == 0


def test_the_law_of_random_crops():
    # red tells the column, green the row, blue nothing: what is left of both says which part was taken
    column, row = np.meshgrid(np.arange(200), np.arange(200))
    image = Image.fromarray(np.stack([column, row, np.full_like(row, 77)], -1).astype(np.uint8))
    crop = RandomCrop((50, 50), colour=False)
    areas, mirrored = [], []
    for seed in range(300):
        result = crop(image, seed).double()
        assert result.shape == (3, 50, 50)
        assert (result[2] == 77).all()  # no colours are changed
        # the outermost pixels lie half an output pixel within the crop
        width, height = ((result[c].max() - result[c].min()) * 50 / 49 for c in (0, 1))
        areas.append(float(width * height) / 200**2)
        assert 0.7 < width / height < 1.43  # 3/4 to 4/3, give or take the rounding to whole pixels
        mirrored.append(bool(result[0, 0, 0] > result[0, 0, -1]))
        assert result[1, 0, 0] < result[1, -1, 0]  # never upside down
    assert 0.07 < min(areas) < 0.2
    assert 0.75 < max(areas) < 1.05
    assert 0.35 < np.mean(mirrored) < 0.65  # five standard errors


def test_colours_change_within_their_bounds():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    crop = RandomCrop((8, 8), colour=True)
    values = [crop(grey, seed) for seed in range(200)]
    assert all((value == value[0, 0, 0]).all() for value in values)  # saturation and contrast have nothing to change
    levels = [int(value[0, 0, 0]) for value in values]
    assert min(levels) >= 59  # 100 (1 - 0.4), rounded down once or twice
    assert max(levels) <= 141
    assert max(levels) - min(levels) > 60
    coloured = Image.new("RGB", (8, 8), (150, 100, 50))
    spreads = {int(value[0, 0, 0]) - int(value[2, 0, 0]) for value in (crop(coloured, seed) for seed in range(100))}
    assert min(spreads) < 75 < 115 < max(spreads)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(tmp_path, workers, monkeypatch):
    noise_image(0, (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [tmp_path / "good.png"] * 3 + [tmp_path / "bad.png"]
    split = ImageSplit([path.name for path in paths], np.zeros(4, dtype=np.int64), FileImages(paths))
    images = placed(split, streamed=True, monkeypatch=monkeypatch, workers=workers)
    loads = images.loads((one, one) for one in torch.arange(4).split(2))
    assert next(loads).shape == (2, 3, 8, 8)
    with pytest.raises(DataError, match=r"^unreadable image .*bad\.png \(no image in a format that is known\)[^\n]*$"):
        next(loads)
    with pytest.raises(DataError, match=r"bad\.png"):
        placed(split, streamed=False, monkeypatch=monkeypatch, workers=workers)


def test_mean_and_deviation_are_those_of_numpy():
    split = noise_split(300)
    values = split.images.pixels.reshape(-1, 3) / 255
    mean, std = channel_statistics(split, size=(8, 8))
    assert mean == pytest.approx(values.mean(0), abs=1e-6)
    assert std == pytest.approx(values.std(0, ddof=1), abs=1e-6)
    # of the first, the middle and the last image
    values = split.images.pixels[[0, 150, 299]].reshape(-1, 3) / 255
    mean, std = channel_statistics(split, size=(8, 8), most=3)
    assert mean == pytest.approx(values.mean(0), abs=1e-6)
    assert std == pytest.approx(values.std(0, ddof=1), abs=1e-6)
    one_colour = ImageSplit(["0"], None, ArrayImages(np.full((1, 4, 4, 3), 51, dtype=np.uint8)))
    assert channel_statistics(one_colour, size=(4, 4)) == ((0.2,) * 3, (0.0,) * 3)


def test_images_go_to_the_device_where_they_fit_a_quarter_of_what_is_free(monkeypatch):
    # 12 images of 3 x 8 x 8 bytes
    for free, kind in ((4 * 2304, DeviceImages), (4 * 2304 - 1, StreamedImages)):
        monkeypatch.setattr(placing, "free_memory", lambda device, free=free: free)
        settings = SupervisedSettings()
        options = {"size": (8, 8), "settings": settings, "device": CPU, "augment": True, "workers": 0} | NORMAL
        assert isinstance(training_images(noise_split(), **options), kind)
        assert isinstance(training_images(noise_split(), processes=2, **options), StreamedImages)
    monkeypatch.undo()
    assert placing.free_memory(CPU) > 1 << 20


def test_random_crops_need_the_whole_image_and_are_streamed(monkeypatch):
    images = placed(noise_split(), streamed=False, monkeypatch=monkeypatch, augmentation="resized_crop")
    assert isinstance(images, StreamedImages)
    # validation sees no crop, and fits the device
    val = placed(noise_split(), streamed=False, monkeypatch=monkeypatch, augmentation="resized_crop", augment=False)
    assert isinstance(val, DeviceImages)


def test_another_preparation_of_the_pixels_is_taken(monkeypatch):
    def black(image):
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    for streamed in (True, False):
        images = placed(noise_split(), streamed=streamed, monkeypatch=monkeypatch, pixels=black, augment=False)
        (inputs,) = images.loads([(torch.arange(3), torch.arange(3))])
        torch.testing.assert_close(inputs[:, :, 0, 0], torch.tensor([[-1.0, -1.25, -1.6]] * 3))


def test_training_is_the_same_on_both(monkeypatch):
    weights = []
    for streamed in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        images = placed(noise_split(), streamed=streamed, monkeypatch=monkeypatch, workers=int(streamed))
        settings = SupervisedSettings(epochs=2, batch_size=4, warmup_epochs=0, mixup_alpha=1.0)
        list(train_supervised(TrainingState.begin(model, settings), images, Objective(), settings, seed=0))
        weights.append(model[1].weight)
    assert torch.equal(*weights)
