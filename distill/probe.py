"""The head as a multinomial logistic regression on features: deterministic, its penalty chosen on ``val``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.wrap import AdaptiveViT

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""L2 penalties tried, on standardised features, per image."""

_ROUNDS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A fitted head.

    Args:
        weight: (C, D), for features as they are (the standardisation is folded in).
        bias: (C,)
        penalty: That was chosen.
        val_correct: Images of ``val`` it has right.
        tried: Penalty and ``val`` accuracy of every candidate.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    val_correct: int
    tried: tuple[tuple[float, float], ...]


def fit_probe(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    val: NDArray[np.float32],
    val_labels: NDArray[np.int64],
    classes: int,
    *,
    penalties: Sequence[float] = PENALTIES,
) -> Probe:
    """Fit one head per penalty and take the one with the best ``val`` accuracy; of equals the strongest penalty.

    Args:
        train: (n, D) features.
        train_labels: (n,) in 0..classes-1.
        val: (m, D) features; they choose the penalty and nothing else.
        val_labels: (m,)
        classes: C; one without training images gets a low bias.
        penalties: To try.

    Raises:
        TrainingError: Features that are not finite.

    Example:
        >>> x = np.array([[0.0], [1.0]], np.float32)
        >>> fit_probe(x, np.array([0, 1]), x, np.array([0, 1]), 2).val_correct
        2
    """
    if not (np.isfinite(train).all() and np.isfinite(val).all()):
        raise TrainingError("the model's features are not finite, so no head can be fitted; try `precision` f32")
    x = torch.from_numpy(train).double()
    mean, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    # What varies by no more than float32 rounds is constant.
    spread = torch.where(spread > 1e-6 * mean.abs(), spread, torch.ones_like(spread))
    x = (x - mean) / spread
    held_out, held_labels = torch.from_numpy(val).double(), torch.from_numpy(val_labels)
    labels = torch.from_numpy(train_labels)
    start = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64)
    best: Probe | None = None
    tried = []
    # From the strongest penalty on, each fit starting at the one before, and only a better one replaces it.
    for penalty in sorted(penalties, reverse=True):
        start = _fit(x, labels, start, penalty)
        weight = start[:, :-1] / spread
        bias = start[:, -1] - weight @ mean
        correct = int(((held_out @ weight.T + bias).argmax(dim=1) == held_labels).sum())
        tried.append((penalty, correct / len(held_labels)))
        if best is None or correct > best.val_correct:
            best = Probe(weight.float(), bias.float(), penalty, correct, ())
    if best is None:
        raise TrainingError("a probe needs at least one penalty to try, but none was given")
    return Probe(best.weight, best.bias, best.penalty, best.val_correct, tuple(tried))


def _fit(x: Tensor, labels: Tensor, start: Tensor, penalty: float) -> Tensor:
    """(C, D + 1), the bias last and unpenalised: the minimum of a convex function, so the start hardly matters."""
    parameters = start.clone().requires_grad_(True)
    optimiser: Any = torch.optim.LBFGS(  # Any: untyped in torch
        [parameters], max_iter=_ROUNDS, tolerance_grad=1e-7, tolerance_change=1e-11, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = x @ parameters[:, :-1].T + parameters[:, -1]
        loss = F.cross_entropy(logits, labels) + 0.5 * penalty * parameters[:, :-1].square().sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return parameters.detach()


def set_head(model: AdaptiveViT, weight: Tensor, bias: Tensor) -> None:
    """Put a probe into the model's classifier (both of a distilled DeiT's, whose logits are averaged).

    Raises:
        UnsupportedBackbone: The classifier is no linear layer of these sizes with a bias.
    """
    found = getattr(model.unwrap(), "get_classifier", lambda: None)()
    for head in found if isinstance(found, tuple) else (found,):
        if not isinstance(head, nn.Linear) or head.weight.shape != weight.shape or head.bias is None:
            shape = tuple(head.weight.shape) if isinstance(head, nn.Linear) else type(head).__name__
            raise UnsupportedBackbone(
                f"the head must be a linear layer of {tuple(weight.shape)} with a bias, got {shape}"
            )
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
