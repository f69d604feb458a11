"""How much is a training sample worth as evidence? A backbone may know it by heart; it never saw a validation sample.

Both are judged out of fold, but the features themselves may have been fitted to the training images. Let q_i be class
i's recall on n_i training samples and let y_i of m_i validation samples be right. If the training recall is off by
chance and by a shift of the size that tau samples would show by chance, then

    y_i ~ BetaBinomial(m_i, t_i q_i, t_i (1 - q_i)),        1 / t_i = 1 / tau + 1 / n_i,

and the best estimate of the recall counts the n_i training samples as t_i validation samples: each is worth
t_i / n_i = 1 / (1 + n_i / tau). One tau for all classes, the most likely one, is read off the data: near infinity
(all samples count the same) where the backbone has not seen the training images, a few samples where it has overfitted.
This is empirical Bayes, with the training recalls for a prior; compare Fay and Herriot, JASA 1979.
"""

import torch

_SHIFTS = torch.logspace(0, 5, 41, dtype=torch.float64)  # candidates for tau, in samples


def training_worth(
    train_correct: torch.Tensor, train_count: torch.Tensor, val_correct: torch.Tensor, val_count: torch.Tensor
) -> torch.Tensor:
    """Return what a training sample of each class is worth in validation samples, float64 [k], in (0, 1].

    Args:
        train_correct: [k] training samples that were predicted right, out of fold.
        train_count: [k] training samples that were judged; 0 allowed.
        val_correct: [k] likewise of validation.
        val_count: [k]; if all are 0 every worth is 1, as there is nothing else to go by.
    """
    if not val_count.any():
        return torch.ones_like(val_count, dtype=torch.float64)
    recall = (train_correct + 1) / (train_count + 2)
    shifts = _SHIFTS.to(val_count.device)
    strength = 1 / (1 / shifts[:, None] + 1 / train_count.clamp_min(1))
    right, wrong = strength * recall, strength * (1 - recall)
    likelihood = (
        (right + val_correct).lgamma()
        + (wrong + val_count - val_correct).lgamma()
        - (strength + val_count).lgamma()
        - right.lgamma()
        - wrong.lgamma()
        + strength.lgamma()
    )
    # a class without training samples to judge says nothing of them
    shift = shifts[(likelihood * (train_count > 0)).sum(1).argmax()]
    return 1 / (1 + train_count / shift)
