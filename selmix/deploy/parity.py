"""Is what is exported the same classifier? Compared on real images before anything is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from selmix.backbones import Backbone
from selmix.data.images import ImageSource
from selmix.data.sources import open_images
from selmix.deploy.images import named_images
from selmix.deploy.opening import Run
from selmix.errors import DataError, SelmixError
from selmix.heads import LinearHead

TOLERANCE = 1e-3  # of the largest logit: far above float32 arithmetic in another order, far below a wrong constant
_SAMPLES = 64

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Parity:
    """How an exported file compares with backbone and head, in float32.

    Attributes:
        samples: images that both saw.
        largest_difference: of any two logits.
        largest_logit: by absolute value.
        agreement: share of the images with the same class.
    """

    samples: int
    largest_difference: float
    largest_logit: float
    agreement: float

    @property
    def words(self) -> str:
        """Return what was seen."""
        return (
            f"compared with backbone and head on {self.samples} images: logits differ by at most "
            f"{self.largest_difference:.2g} (the largest is {self.largest_logit:.3g}), classes agree on "
            f"{100 * self.agreement:.4g} %"
        )


def sample_pixels(run: Run, backbone: Backbone, words: Sequence[str]) -> torch.Tensor:
    """Return some images as the backbone takes them, [n, 3, h, w]: of those named, else of test, val or train.

    Raises:
        DataError: if there are none that can be read.
    """
    images = named_images(words).images if words else _own_images(run)
    pixels = []
    for position in np.unique(np.linspace(0, len(images) - 1, _SAMPLES).astype(int)).tolist():
        try:
            pixels.append(backbone.transform(images.open(position)))
        except DataError:
            continue
    if not pixels:
        raise DataError("none of the images to compare on can be read; name others with --images")
    return torch.stack(pixels)


def _own_images(run: Run) -> ImageSource:
    place = run.origin.get("data")
    if place is None:
        raise DataError(f"{run.folder} does not say of which images it is; name some to compare on with --images")
    try:
        splits = open_images(place).splits
    except SelmixError as error:
        raise DataError(f"the images of {run.folder} cannot be opened ({error}); name others with --images") from error
    return next(splits[name] for name in ("test", "val", "train") if name in splits).images


def compare(backbone: Backbone, head: LinearHead, exported: Logits, pixels: torch.Tensor) -> Parity:
    """Compare logits on images [n, 3, h, w], the first of them alone: the size of a batch must not matter.

    Raises:
        DataError: if a logit differs by more than the tolerance, or a class differs.
    """
    batches = [pixels[:1], pixels[1:]] if len(pixels) > 1 else [pixels]
    with torch.inference_mode():
        ours = torch.cat([head.logits(backbone.model(batch)) for batch in batches])
        theirs = torch.cat([exported(batch) for batch in batches])
    if theirs.shape != ours.shape or not theirs.isfinite().all():
        raise DataError(f"the exported classifier gives no {ours.shape[1]} finite logits an image; nothing was written")
    parity = Parity(
        samples=len(pixels),
        largest_difference=float((ours.double() - theirs.double()).abs().max()),
        largest_logit=float(ours.abs().max()),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
    )
    if parity.largest_difference > TOLERANCE * parity.largest_logit or parity.agreement < 1:
        raise DataError(f"the exported classifier is another one: {parity.words}; nothing was written")
    return parity
