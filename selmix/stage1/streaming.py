"""Training images that are decoded when they are needed, in worker processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import v2

from selmix.data.images import ImageSource
from selmix.errors import DataError
from selmix.features.loading import read_ahead
from selmix.stage1.images import Finish, Request

Pixels = Callable[[Image.Image], torch.Tensor]
SeededPixels = Callable[[Image.Image, int], torch.Tensor]


@dataclass(frozen=True)
class Resized:
    """An image brought to a size, whatever its form.

    Attributes:
        size: height and width in pixels.
    """

    size: tuple[int, int]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return uint8 [3, h, w]."""
        height, width = self.size
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return v2.functional.pil_to_tensor(image)


class RandomCrop:
    """A random part of an image, resized and mirrored, maybe in other colours; the same for the same seed.

    A crop has 8 to 100 % of the area and sides of ratio 3/4 to 4/3; brightness, contrast and saturation change by up to
    0.4. Source: the released code of MiSLAS (CVPR 2021) for ImageNet-LT, iNaturalist and Places-LT.
    """

    def __init__(self, size: tuple[int, int], *, colour: bool) -> None:
        steps: list[torch.nn.Module] = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        if colour:
            steps.append(v2.ColorJitter(0.4, 0.4, 0.4))
        self.transform = v2.Compose(steps)

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """Return uint8 [3, h, w]."""
        # torchvision draws from the global stream, which may be that of the process that trains: it is given back
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return v2.functional.pil_to_tensor(self.transform(image))


@dataclass(frozen=True)
class Reader:
    """What becomes of the images of a source before they go to the device.

    Attributes:
        source: where they come from.
        pixels: what an image becomes where there is no `random_crop`: RGB -> uint8 [3, h, w].
        random_crop: likewise, at random: it is given a seed, too; None for none.
        workers: processes that decode; 0 for none. The bits do not depend on it.
    """

    source: ImageSource
    pixels: Pixels
    random_crop: SeededPixels | None = None
    workers: int = 0

    def read(self, requests: Sequence[Request], *, pinned: bool = False) -> Iterator[torch.Tensor]:
        """Yield uint8 [b, 3, h, w] for each request, decoded ahead of time.

        Args:
            requests: int64 [b] positions, and int64 [b] seeds of the random crops.
            pinned: whether they are to lie in memory from which a GPU can fetch them by itself.

        Raises:
            DataError: at the first image that cannot be read.
        """
        for pixels, fault in read_ahead(_Batches(self, requests), workers=self.workers, pinned=pinned):
            if fault:
                raise DataError(fault)
            yield pixels

    def batch(self, request: Request) -> tuple[torch.Tensor, str]:
        """Return uint8 [b, 3, h, w], or nothing and the fault: an error does not travel well between processes."""
        stack = []
        for position, seed in zip(*(row.tolist() for row in request), strict=True):
            try:
                image = self.source.open(position)
            except DataError as error:
                return torch.empty(0), str(error)
            stack.append(self.random_crop(image, seed) if self.random_crop else self.pixels(image))
        return torch.stack(stack), ""


@dataclass(frozen=True)
class _Batches(torch.utils.data.Dataset[tuple[torch.Tensor, str]]):
    """The batches of some requests, by number."""

    reader: Reader
    requests: Sequence[Request]

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        return self.reader.batch(self.requests[number])


@dataclass(frozen=True)
class StreamedImages:
    """Images that are decoded when they are needed.

    Attributes:
        reader: of their pixels.
        labels: int64 [n], on the CPU.
        device: where the inputs go.
        mean: normalisation, per channel of images in [0, 1].
        std: likewise.
        crop_padding: pixels of padding before a random crop and mirroring, on the device; None for none.
    """

    reader: Reader
    labels: torch.Tensor
    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int | None = None

    def loads(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yield the inputs [b, c, h, w] of each request: int64 [b] positions, and int64 [b] seeds of augmentation.

        Raises:
            DataError: at the first image that cannot be read.
        """
        finish = Finish(self.mean, self.std, self.crop_padding)
        wanted = list(requests)
        for (_, seeds), pixels in zip(wanted, self.reader.read(wanted, pinned=self.device.type == "cuda"), strict=True):
            yield finish(pixels.to(self.device, non_blocking=True), seeds)
