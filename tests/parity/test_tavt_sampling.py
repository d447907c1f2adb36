"""TAVT's official samplers of lengths and layers, with its own stream of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.distill.sampling import bounded_counts, ratio_counts, surviving_layers
from tests.parity.official import load

pytestmark = pytest.mark.kind("tavt_evolution")


def thinned_counts(
    tokens: int, layers: int, probability: float, draws: np.random.RandomState, executed: Sequence[int] | None
) -> tuple[int, ...]:
    """The official third rule, which no recipe of ours draws by: every token leaves each layer that runs by chance."""
    counts, count = [], tokens
    for layer in range(layers):
        if executed is None or layer in executed:
            count = max(count - int(draws.binomial(count, probability)), 2)
        counts.append(count)
    return tuple(counts)


def first_layers(layers: int, dropped: int) -> tuple[int, ...]:
    """The official alternative to layer dropout, which no recipe of ours has; at least one layer stays."""
    return tuple(range(max(layers - dropped, 1)))


def recorded(reference: Path, name: str) -> dict[str, Any]:
    _, meta = load(reference, name)
    data: dict[str, Any] = meta["data"]
    return data


def test_lengths_by_ratio(reference: Path, name: str) -> None:
    for given, expected in recorded(reference, name)["sample_length_ratio"]:
        ours = ratio_counts(
            given["max_seq_length"],
            given["num_hidden_layers"],
            given["length_drop_ratio"],
            floor=given["min_length"],
            executed=given["layer_config"],
        )
        assert list(ours) == expected


def test_random_lengths(reference: Path, name: str) -> None:
    data = recorded(reference, name)["sample_length_random"]
    draws = np.random.RandomState(data["np_seed"])
    for given, expected in data["calls"]:
        sizes = (given["max_seq_length"], given["num_hidden_layers"])
        executed = given.get("layer_config")
        if "length_drop_prob" in given:
            ours = thinned_counts(*sizes, given["length_drop_prob"], draws, executed)
        else:
            ours = bounded_counts(*sizes, given["length_drop_ratio_bound"], draws, executed=executed)
        assert list(ours) == expected


def test_layers(reference: Path, name: str) -> None:
    data = recorded(reference, name)["sample_layer"]
    draws = np.random.RandomState(data["np_seed"])
    for given, expected in data["calls"]:
        layers = given["num_hidden_layers"]
        ours: tuple[int, ...] | None = None
        if "layer_dropout_prob" in given:  # the official order of precedence
            ours = surviving_layers(layers, given["layer_dropout_prob"], draws)
        elif "layer_dropout" in given:
            ours = first_layers(layers, given["layer_dropout"])
        elif "layer_dropout_bound" in given:
            ours = first_layers(layers, draws.randint(0, min(given["layer_dropout_bound"], layers - 1) + 1))
        assert (None if ours is None else list(ours)) == expected


def test_one_layer_stays() -> None:
    assert first_layers(3, 9) == (0,)
