"""Personal augmentation: noise on the inputs, of a strength that is learnt for each class.

x + eps_y u, u uniform on the sphere of radius sqrt(d): eps_y is the noise's standard deviation a pixel, in units of
the normalised image, and the input is differentiable in it. Inspired by the personalised augmentation of AutoBalance
(NeurIPS 2021, lemma 2: radii of spherical augmentation move a linear boundary as offsets, factors and weights do), and
not a reproduction: the paper's operations and magnitudes are not known to us.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from selmix.stage1.images import TrainingImages


def spherical_noise(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one direction a sample, with unit mean square, shaped as `inputs` [b, ...].

    Args:
        inputs: on the device of the generator.
        generator: where the directions come from.
    """
    noise = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
    return noise / noise.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (inputs.ndim - 1))


def perturb(inputs: torch.Tensor, noise: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Return inputs + strength * noise, with a strength [b] for each sample, differentiable in it."""
    return inputs + strength.to(inputs).view(-1, *[1] * (inputs.ndim - 1)) * noise


@dataclass(frozen=True)
class NoisyImages:
    """Images with noise of the strength of their cell.

    Attributes:
        images: what the noise is put on.
        strength: [k, g], standard deviation a pixel.
    """

    images: TrainingImages
    strength: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        """int64 [n], on the CPU: class * g + group."""
        return self.images.labels

    def loads(self, requests: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[torch.Tensor]:
        """Yield the inputs of each request (positions, seeds); the noise follows from both, of the whole batch."""
        asked: list[tuple[torch.Tensor, torch.Tensor]] = []

        def noted() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for request in requests:
                asked.append(request)
                yield request

        for inputs in self.images.loads(noted()):
            positions, seeds = asked.pop(0)
            generator = torch.Generator(inputs.device).manual_seed(int(seeds.sum()) & (1 << 63) - 1)
            strength = self.strength.flatten()[self.labels[positions].to(self.strength.device)]
            yield perturb(inputs, spherical_noise(inputs, generator), strength.to(inputs.device))
