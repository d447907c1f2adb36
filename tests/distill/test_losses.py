from __future__ import annotations

import pytest
import torch

from tavt_kit.distill.losses import divergence
from tavt_kit.errors import UnknownName


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_it_is_the_divergence_by_definition(direction: str, temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    p, q = (logit.div(temperature).softmax(1) for logit in (student, teacher))
    if direction == "forward":
        p, q = q, p
    expected = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
    torch.testing.assert_close(divergence(student, teacher, direction, temperature), expected)
    assert divergence(student, student, direction).abs() < 1e-6


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_gradients_reach_the_student_alone(direction: str) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    torch.autograd.backward(divergence(student, teacher, direction))
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_forward_gradient_is_the_difference_of_probabilities() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    torch.autograd.backward(divergence(student, teacher, "forward"))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.detach().softmax(1) - teacher.softmax(1)) / 5)


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    assert divergence(student, teacher).dtype == torch.float32


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(UnknownName, match="reverse, forward.*sideways"):
        divergence(logits(0), logits(1), "sideways")
