"""How much is a training sample worth as evidence? A backbone may know it by heart; it never saw a validation sample.

Both are judged out of fold, but the features themselves may have been fitted to the training images. Let c_i of class
i's n_i training samples be right, and y_i of its m_i validation samples. If the recalls differ by a shift of the size
that tau samples would show by chance, the n_i training samples tell as much as t_i validation samples, each as much as
w_i = t_i / n_i = 1 / (1 + n_i / tau) of them, and

    y_i ~ BetaBinomial(m_i, 1 + w_i c_i, 1 + w_i (n_i - c_i)),        1 / t_i = 1 / tau + 1 / n_i:

a flat prior of the recall and a discounted likelihood of the training samples. Flat, because a prior that gathers at
0 and 1 when w_i is small would take recalls of 1 on both sides for a sign of shift. One tau for all classes, the most
likely one up to 1e5, is read off the data: large (all samples count the same) where the backbone has not seen the
training images, a few samples where it has overfitted. This is empirical Bayes; the prior is the power prior of
Ibrahim and Chen, Statistical Science 2000.
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
    shifts = _SHIFTS.to(val_count.device)
    worth = 1 / (1 + train_count / shifts[:, None])
    right, wrong = 1 + worth * train_correct, 1 + worth * (train_count - train_correct)
    likelihood = (
        (right + val_correct).lgamma()
        + (wrong + val_count - val_correct).lgamma()
        - (right + wrong + val_count).lgamma()
        - right.lgamma()
        - wrong.lgamma()
        + (right + wrong).lgamma()
    )
    # a class without training samples to judge is equally likely under every tau
    return worth[likelihood.sum(1).argmax()]
