"""DASO: pseudo-labels of the classifier, blended with those of class means where a class is predicted often."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from selmix.semi.fixmatch import FixMatch, ThresholdSettings
from selmix.semi.method import Method, Step
from selmix.semi.settings import Beginning
from selmix.stage1.objective import Objective


@dataclass(frozen=True)
class DasoSettings(ThresholdSettings):
    """FixMatch with distribution-aware semantics-oriented pseudo-labels.

    Attributes:
        queue_size: features of each class that are remembered.
        similarity_temperature: of the softmax of cosines.
        distribution_temperature: of the distribution of pseudo-labels: the higher, the more all classes are blended.
        distribution_steps: steps whose pseudo-labels are counted, after which the distribution is made anew.
        alignment_weight: of the loss that brings the cosines of strong views to those of weak ones.
        warmup_steps: steps of FixMatch before blending and alignment.
    """

    method: Literal["daso"] = "daso"
    queue_size: int = 256
    similarity_temperature: float = 0.05
    distribution_temperature: float = 1.5
    distribution_steps: int = 100
    alignment_weight: float = 1.0
    warmup_steps: int = 5000

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Return what the values must be."""
        return super().rules() | {
            "queue_size": (">= 1", self.queue_size >= 1),
            "similarity_temperature": ("> 0", self.similarity_temperature > 0),
            "distribution_temperature": ("> 0", self.distribution_temperature > 0),
            "distribution_steps": (">= 1", self.distribution_steps >= 1),
            "alignment_weight": (">= 0", self.alignment_weight >= 0),
            "warmup_steps": (">= 0", self.warmup_steps >= 0),
        }

    def begin(self, objective: Objective, beginning: Beginning) -> Method:
        """Return the method before its first step."""
        shape = len(beginning.class_counts), self.queue_size, beginning.num_features
        return Daso(self.fixmatch(objective), self, torch.zeros(shape, device=beginning.class_counts.device))


class Daso(Method):
    """FixMatch with blended pseudo-labels, and a loss that aligns what prototypes make of strong views.

    The prototype of a class is the mean of the last features that the averaged network gave labeled images of it. With
    s = softmax(cos(feature, prototypes) / T_similarity), p the softmax of the classifier and c = argmax p, both of the
    weak view, FixMatch takes for its probabilities

        (1 - v_c) p + v_c s,    v_c = (m_c / max_k m_k)^(1 / T_distribution),

    m_k the pseudo-labels of class k, confident or not, among the last `distribution_steps` steps that are complete;
    before that, v = 0. The alignment loss is the mean cross-entropy between s of the weak view, a constant, and s of
    the strong one. A class of which no image was seen yet has cosine 0.

    Source: Oh, Kim and Kweon, "DASO: Distribution-Aware Semantics-Oriented Pseudo-Label for Imbalanced Semi-Supervised
    Learning", CVPR 2022, equations 1 to 6.
    """

    wants_average = True

    queue: torch.Tensor
    pushed: torch.Tensor
    counted: torch.Tensor
    distribution: torch.Tensor
    steps: torch.Tensor

    def __init__(self, fixmatch: FixMatch, settings: DasoSettings, queue: torch.Tensor) -> None:
        """Take FixMatch, what blending and alignment go by, and zeros [k, s, d]."""
        super().__init__()
        self.fixmatch, self.settings = fixmatch, settings
        counts = torch.zeros(len(queue), dtype=torch.int64, device=queue.device)
        self.register_buffer("queue", queue)
        self.register_buffer("pushed", counts.clone())
        self.register_buffer("counted", counts.clone())
        self.register_buffer("distribution", counts.clone())
        self.register_buffer("steps", counts.new_zeros(()))

    def share(self, step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return this process's share of the loss, of its parts, and of the pseudo-labels that are used."""
        assert step.average is not None
        labels = step.labels[step.ranks.gathered(step.rows)]
        self.remember(step.ranks.gathered(step.average.features), labels)
        warm = self.steps >= self.settings.warmup_steps  # a tensor: nothing here waits for the device

        semantic = self.similarities(step.weak.features).softmax(1)
        linear = step.weak.logits.softmax(1)
        share = (warm * self.blending())[linear.argmax(1), None]
        blended = (1 - share) * linear + share * semantic
        loss, figures = self.fixmatch.learn_from(step, blended)

        losses = F.cross_entropy(self.similarities(step.strong.features), semantic, reduction="none")
        alignment = warm * losses.sum() / step.pool_batch
        self.count(step, blended.argmax(1))
        figures |= {"alignment_loss": alignment.detach(), "blended_share": share.double().sum() / step.pool_batch}
        return loss + self.settings.alignment_weight * alignment, figures

    def remember(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Let features [b, d] of labeled images replace the oldest of their classes [b]."""
        size, counts = self.queue.shape[1], torch.bincount(labels, minlength=len(self.queue))
        order = labels.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[labels[order]]
        last = rank >= counts[labels] - size  # of more than a queue holds, the last ones
        slots = (self.pushed[labels] + rank) % size
        self.queue[labels[last], slots[last]] = features[last].to(self.queue)
        self.pushed += counts

    def prototypes(self) -> torch.Tensor:
        """Return the mean of the remembered features of each class, [k, d]; zero where there are none."""
        return self.queue.sum(1) / self.pushed.clamp(1, self.queue.shape[1])[:, None]

    def similarities(self, features: torch.Tensor) -> torch.Tensor:
        """Return the cosines between features [m, d] and prototypes, divided by their temperature, [m, k]."""
        return F.normalize(features) @ F.normalize(self.prototypes()).T / self.settings.similarity_temperature

    def blending(self) -> torch.Tensor:
        """Return v, [k]."""
        relative = self.distribution / self.distribution.max().clamp_min(1)
        return relative ** (1 / self.settings.distribution_temperature)

    def count(self, step: Step, pseudo_labels: torch.Tensor) -> None:
        """Take note of the pseudo-labels [m'] of a step that is over."""
        self.counted += step.ranks.total(torch.bincount(pseudo_labels, minlength=len(self.counted)))
        self.steps += 1
        due = self.steps % self.settings.distribution_steps == 0
        self.distribution.copy_(torch.where(due, self.counted, self.distribution))
        self.counted.copy_(torch.where(due, 0, self.counted))
