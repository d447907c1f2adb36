from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tavt_kit.checkpoints import open_model
from tavt_kit.data import ImageSet
from tavt_kit.distill import distill, distill_recipe, in_place
from tavt_kit.distill.sandwich import SandwichRule, SandwichStep, Teacher, sandwich_step
from tavt_kit.errors import DataError, ParameterError, UnknownName
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.workflows.distill import distill as tk_distill
from tests.distill.conftest import COLOURS
from tests.distill.test_sandwich import batch, shaken, taken

Make = Callable[..., AdaptiveViT]


def master(size: int = 64, classes: tuple[str, ...] = tuple(COLOURS), seed: int = 5) -> AdaptiveViT:
    return shaken(open_model("test_vit", weights="random", classes=classes, image_size=size, seed=seed))


def test_the_full_network_learns_from_labels_and_teacher(make_model: Make) -> None:
    model = shaken(make_model())
    images, labels = batch()
    teacher = Teacher(master(), model.require_card())
    rule = SandwichRule(temperature=2.0, teacher_weight=0.3)
    step = sandwich_step(model, images, labels, [], rule=rule, targets=teacher.logits(images), taught="full")
    ours = taken(model)
    logits = model(images)
    wanted = teacher.model(images).detach()
    apart = 4 * F.kl_div((logits / 2).log_softmax(-1), (wanted / 2).softmax(-1), reduction="batchmean")
    loss = 0.7 * F.cross_entropy(logits, labels) + 0.3 * apart
    loss.backward()  # type: ignore[no-untyped-call]
    assert step.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert step.full["teacher"].item() == pytest.approx(apart.item(), rel=1e-5)
    for name, gradient in taken(model).items():
        torch.testing.assert_close(ours[name], gradient, atol=2e-5, rtol=2e-4)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.model.parameters())


def test_a_teacher_of_another_size_and_normalisation_sees_the_same_images(make_model: Make) -> None:
    student = make_model()
    big = master(96)
    assert big.card is not None and student.card is not None
    half = {**big.card.preprocessing, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    big.card = replace(big.card, preprocessing=half)
    pixels = torch.rand(2, 3, 1, 1).expand(2, 3, 64, 64)  # of one colour, so that resizing changes nothing
    mean, std = (torch.tensor(student.card.preprocessing[name])[:, None, None] for name in ("mean", "std"))
    ours = Teacher(big, student.card).logits((pixels - mean) / std)
    theirs = big((pixels[:, :, :1, :1].expand(2, 3, 96, 96) - 0.5) / 0.5)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_teacher_of_other_classes_is_refused_in_a_sentence(make_model: Make) -> None:
    card = make_model().card
    assert card is not None
    with pytest.raises(DataError, match="class 1 of the teacher is red and of the student green"):
        Teacher(master(classes=("blue", "red")), card)
    with pytest.raises(DataError, match="class 0 of the teacher is .* and of the student"):
        Teacher(master(classes=("red", "green", "blue")), card)
    with pytest.raises(DataError, match="no card"):
        Teacher(AdaptiveViT(master().unwrap()), card)


def test_a_larger_teacher_sees_the_images_at_its_own_size_and_teaches_every_network(
    make_model: Make, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, taught = [], []
    logits, step = Teacher.logits, in_place.sandwich_step

    def watched(self: Teacher, images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape[-2:]))
        return logits(self, images)

    def noted(model: AdaptiveViT, images: torch.Tensor, *rest: Any, **given: Any) -> SandwichStep:
        taught.append((tuple(images.shape[-2:]), given["taught"], given["targets"]))
        return step(model, images, *rest, **given)

    monkeypatch.setattr(Teacher, "logits", watched)
    monkeypatch.setattr(in_place, "sandwich_step", noted)
    recipe = distill_recipe(steps=2, batch=4, precision="f32", taught="all")
    record = distill(make_model(), images, tmp_path / "run", recipe, teacher=master(96))
    assert record["asked"]["taught"] == "all" and seen == [(96, 96)] * 2
    assert all(size == (64, 64) and whom == "all" and found is not None for size, whom, found in taught)


def test_whom_a_teacher_teaches_is_one_of_two(images: ImageSet) -> None:
    with pytest.raises(UnknownName, match="one of full, all, got 'none'"):
        distill_recipe(taught="none")
    with pytest.raises(ParameterError, match="no `teacher` is given"):
        tk_distill("runs/none", "runs/out", taught="all")
