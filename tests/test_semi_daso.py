"""DASO: queues and prototypes against lists, blending by hand, what is left without it, resuming."""

import dataclasses

import pytest
import torch
from killed_trainer import tensors
from semi_methods import begun, falls, step, trained

from selmix.semi.daso import DasoSettings
from selmix.semi.fixmatch import FixMatchSettings

SEMI = DasoSettings(threshold=0.4, steps_per_epoch=3, queue_size=4, warmup_steps=0, distribution_steps=2)


def test_prototypes_are_means_of_the_last_features_of_each_class():
    method = begun(SEMI)
    generator = torch.Generator().manual_seed(1)
    queues = {label: [] for label in range(3)}
    for count in (3, 1, 14, 2):  # 14: more of a class in one batch than its queue holds
        features = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        labels = torch.randint(2, (count,), generator=generator)
        method.remember(features, labels)
        for row, label in zip(features, labels.tolist(), strict=True):
            queues[label] = [*queues[label], row][-4:]
        expected = torch.stack(
            [torch.stack(own).mean(0) if own else torch.zeros(6).double() for own in queues.values()]
        )
        torch.testing.assert_close(method.prototypes(), expected)
    assert max(len(own) for own in queues.values()) == 4
    assert method.prototypes()[2].eq(0).all()


def test_blending_follows_the_distribution_of_pseudo_labels():
    method = begun(SEMI)
    assert method.blending().tolist() == [0, 0, 0]
    method.distribution.copy_(torch.tensor([8, 1, 0]))
    # (1/8)^(1 / 1.5) = 1/4
    assert method.blending().tolist() == pytest.approx([1, 1 / 4, 0])


def similarities(features, prototypes):
    return torch.stack([torch.cosine_similarity(features, row[None]) for row in prototypes], 1) / 0.05


def test_a_blended_step_by_hand():
    method, same = begun(SEMI), step()
    method.distribution.copy_(torch.tensor([8, 1, 0]))
    loss, figures = method.share(same)
    prototypes = torch.stack([same.average.features[same.labels == label].mean(0) for label in range(3)])
    linear = same.weak.logits.exp() / same.weak.logits.exp().sum(1, keepdim=True)
    semantic = similarities(same.weak.features, prototypes).softmax(1)
    share = torch.tensor([1, 1 / 4, 0]).double()[linear.argmax(1)][:, None]
    blended = (1 - share) * linear + share * semantic
    unlabeled, alignment = 0, 0
    logs = similarities(same.strong.features, prototypes).log_softmax(1)
    for row in range(40):
        alignment = alignment - (semantic[row] * logs[row]).sum() / 40
        if blended[row].max() >= 0.4:
            unlabeled = unlabeled - same.strong.logits[row].log_softmax(0)[blended[row].argmax()] / 40
    labeled = -same.labeled.logits.log_softmax(1)[torch.arange(8), same.labels].mean()
    torch.testing.assert_close(loss, labeled + unlabeled + alignment)
    torch.testing.assert_close(figures["alignment_loss"], alignment.detach())
    torch.testing.assert_close(figures["blended_share"], share.mean())
    assert (blended.argmax(1) != linear.argmax(1)).any()


def test_without_blending_it_is_fixmatch_and_alignment():
    # before the first distribution v = 0
    method, same = begun(SEMI), step()
    loss, figures = method.share(same)
    plain, _ = begun(FixMatchSettings(threshold=0.4)).share(same)
    assert figures["blended_share"] == 0
    assert figures["alignment_loss"] > 0
    torch.testing.assert_close(loss, plain + figures["alignment_loss"])
    half = begun(dataclasses.replace(SEMI, alignment_weight=0.5))
    torch.testing.assert_close(half.share(same)[0], plain + figures["alignment_loss"] / 2)


def test_the_warm_up_is_fixmatch_while_queues_fill_and_labels_are_counted():
    method = begun(dataclasses.replace(SEMI, warmup_steps=2))
    plain, used = begun(FixMatchSettings(threshold=0.4)), []
    for number in range(4):
        same = step(seed=number)
        loss, figures = method.share(same)
        torch.testing.assert_close(loss - figures["alignment_loss"], plain.share(same)[0]) if number < 2 else None
        used.append((float(figures["alignment_loss"]) > 0, float(figures["blended_share"]) > 0))
    assert used == [(False, False), (False, False), (True, True), (True, True)]


def test_the_distribution_is_that_of_complete_rounds():
    method = begun(dataclasses.replace(SEMI, warmup_steps=100))
    counts = [torch.bincount(step(seed=number).weak.logits.argmax(1), minlength=3) for number in range(5)]
    seen = []
    for number in range(5):
        method.share(step(seed=number))
        seen.append(method.distribution.clone())
    none = torch.zeros(3, dtype=torch.int64)
    first, second = counts[0] + counts[1], counts[2] + counts[3]
    assert [own.tolist() for own in seen] == [own.tolist() for own in (none, first, first, second, second)]
    assert method.counted.tolist() == counts[4].tolist()


def test_no_gradient_through_what_is_remembered():
    method, same = begun(SEMI), step()
    method.share(same)[0].backward()
    assert not method.queue.requires_grad
    assert same.strong.features.grad.abs().sum() > 0
    assert falls(dataclasses.replace(SEMI, distribution_steps=100))


def test_an_interrupted_training_by_daso_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    semi = dataclasses.replace(SEMI, warmup_steps=1)
    whole, records = trained(semi, tmp_path / "whole.pt")
    assert records[-1]["blended_share"] > 0
    calls, step_of = iter(range(semi.steps_per_epoch + 1)), torch.optim.SGD.step

    def interrupted(self, *rest):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return step_of(self, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(semi, tmp_path / "part.pt")
    monkeypatch.undo()
    expected, resumed = tensors(whole), tensors(trained(semi, tmp_path / "part.pt")[0])
    assert {f"method.{name}" for name in ("queue", "pushed", "counted", "distribution", "steps")} <= expected.keys()
    assert [name for name in expected if not torch.equal(resumed[name], expected[name])] == []
