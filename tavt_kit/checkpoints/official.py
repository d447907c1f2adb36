"""What ``convert`` asks of a family's reader, and what it gets: the seam between official files and our models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError

PositionRule = Literal["official", "timm"]
POSITION_RULES: tuple[PositionRule, ...] = ("official", "timm")
"""How a position table is resized: bilinear with the corners aligned (scipy's zoom, as the official loaders do), or
bilinear without (as timm's loader of the same files does)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user says of a file beyond what is in it; see ``convert``. Several heads are ``stage_heads``."""

    heads: int | None = None
    slide_step: int | None = None
    image_size: int | None = None
    positions: PositionRule = "official"
    family: str | None = None
    num_token: int | None = None
    classes: tuple[str, ...] | None = None
    num_selects: tuple[int, ...] | None = None
    stage_heads: tuple[int, ...] | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Official:
    """An official file, read.

    Args:
        family: Its short name, as the flag has it.
        name: The architecture, as timm's registry knows it.
        arguments: For creating it.
        tensors: In the model's own names.
        origin: Of what system, for people.
        preprocessing: The recipe's evaluation; ``None`` takes the model's own configuration.
        untrained: Beginnings of names of tensors that the file does not have and that start at random.
        left_out: Names in the file that only training uses.
    """

    family: str
    name: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    origin: str
    preprocessing: Preprocessing | None = None
    untrained: tuple[str, ...] = ()
    left_out: Sequence[str] = ()


def resize_positions(table: Tensor, side: int, rule: PositionRule) -> Tensor:
    """A position table (1, 1 + n * n, D) for a grid of ``side`` x ``side``; the class row stays as it is.

    Raises:
        CheckpointError: No such rule.
    """
    if rule not in POSITION_RULES:
        raise CheckpointError(f"position tables are resized by the rule {' or '.join(POSITION_RULES)}, got {rule!r}")
    before = round((table.shape[1] - 1) ** 0.5)
    if before == side:
        return table
    grid = table[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=rule == "official")
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)
