"""Predictions for images as they are read: a batch is in memory at a time."""

import logging
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from selmix.backbones import Backbone
from selmix.data.images import ImageSplit
from selmix.deploy.sheets import Layout, Tally, new_sheet
from selmix.errors import DataError
from selmix.features.extract import Engine, Track, feature_batches
from selmix.features.loading import default_workers
from selmix.heads import LinearHead

logger = logging.getLogger("selmix")


@dataclass(frozen=True)
class Predictor:
    """A backbone and a head, ready for images.

    Attributes:
        backbone: frozen.
        head: on its features.
        device: where the backbone runs.
        dtype: of the features, as in the run.
        temperature: T of softmax(logits / T).
        skip_bad: whether an image that cannot be read is left out; else it is an error.
        bad: what was left out, name -> why; grows.
    """

    backbone: Backbone
    head: LinearHead
    device: torch.device
    dtype: str = "float32"
    temperature: float = 1.0
    skip_bad: bool = False
    bad: dict[str, str] = field(default_factory=dict)

    def features(
        self, images: ImageSplit, *, track: Track | None = None
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """Yield positions, int64 [b], and float32 features [b, d] of the images that can be read, batch by batch.

        They are made in the batches, and in the dtype, in which tuning made them: the same bits on the same device.

        Raises:
            DataError: for an image that cannot be read, unless such are left out.
        """
        engine = Engine(self.backbone, self.device, self.dtype)
        workers = default_workers(len(images.ids), processes=1)
        with closing(feature_batches(engine, images, workers=workers, track=track)) as batches:
            for first, features, faults in batches:
                for place, reason in faults.items():
                    if not self.skip_bad:
                        raise DataError(f"{reason}, or leave such images out: --on-bad-image skip")
                    logger.warning("left out: %s", reason.partition("; replace")[0])
                    self.bad[images.ids[first + place]] = reason
                if not features.isfinite().all():
                    raise DataError(
                        f"{self.backbone.name} gives features that are not finite numbers in {self.dtype}; "
                        "mend its weights" + (", or tune with --dtype float32" if self.dtype != "float32" else "")
                    )
                good = torch.tensor([place for place in range(len(features)) if place not in faults], dtype=torch.int64)
                yield first + good, features[good].float()

    def predict(
        self, images: ImageSplit, *, track: Track | None = None
    ) -> Generator[tuple[list[str], torch.Tensor], None, None]:
        """Yield names and probabilities, float64 [b, k], batch by batch, as `features` does."""
        with closing(self.features(images, track=track)) as batches:
            for positions, features in batches:
                probabilities = (self.head.logits(features).double() / self.temperature).softmax(1)
                yield [images.ids[position] for position in positions.tolist()], probabilities


def predict_to(
    out: Path | None,
    predictor: Predictor,
    images: ImageSplit,
    layout: Layout,
    tally: Tally,
    *,
    track: Track | None = None,
) -> None:
    """Predict images, write the rows to a sheet if one is named, and let the tally see them.

    Raises:
        DataError: for an image that cannot be read, unless such are left out, or a file that cannot be written; no file
            is left then.
    """
    writing = nullcontext() if out is None else new_sheet(out, layout)
    with writing as sheet, closing(predictor.predict(images, track=track)) as batches:
        for names, probabilities in batches:
            rows = layout.rows(names, probabilities)
            tally.add(rows)
            if sheet is not None:
                sheet.add(rows)
