"""TAVT's official samplers of lengths and layers, with its own stream of random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.distill.sampling import (
    bounded_counts,
    first_layers,
    ratio_counts,
    surviving_layers,
    thinned_counts,
    up_to_first_layers,
)
from tests.parity.official import load

pytestmark = pytest.mark.kind("tavt_evolution")


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
            ours = thinned_counts(*sizes, given["length_drop_prob"], draws, executed=executed)
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
            ours = up_to_first_layers(layers, given["layer_dropout_bound"], draws)
        assert (None if ours is None else list(ours)) == expected
