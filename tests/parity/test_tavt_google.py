"""Google's npz files through TAVT's official loader: every recorded quantity, through the public converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_vit import official_names
from tavt_kit.models.wrap import wrap
from tests.parity.official import load

pytestmark = pytest.mark.kind("tavt_google_loaded")
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


def input_of(reference: Path, name: str) -> Path:
    """The pair's other half."""
    return reference / f"{name.replace('_loaded', '_input')}.npz"


def converted(reference: Path, name: str, image_size: int) -> nn.Module:
    model, _ = convert(input_of(reference, name), image_size=image_size)
    return model


def test_the_pair_is_a_pair(reference: Path, name: str) -> None:
    loaded, _ = load(reference, name)
    with np.load(input_of(reference, name), allow_pickle=False) as file:
        given = {key: file[key] for key in file.files}
    recorded = {key.removeprefix("google/"): loaded[key] for key in loaded if key.startswith("google/")}
    assert recorded.keys() == given.keys()
    assert all(np.array_equal(recorded[key], array) for key, array in given.items())


def test_every_tensor_is_the_official_loaders(reference: Path, name: str) -> None:
    loaded, meta = load(reference, name)
    mine = converted(reference, name, meta["config"]["img_size"]).state_dict()
    names = official_names(meta["config"]["num_layers"])
    assert mine.keys() == names.keys()
    assert {f"state/{part}" for theirs in names.values() for part in theirs} == {
        key for key in loaded if key.startswith("state/")
    }
    for ours, theirs in names.items():
        expected = np.concatenate([loaded[f"state/{part}"] for part in theirs])
        # scipy's zoom computes in doubles; everything but the resized table is a copy.
        np.testing.assert_allclose(mine[ours].numpy(), expected, atol=1e-6 if ours == "pos_embed" else 0, rtol=0)


@pytest.mark.parametrize(("run", "size"), [("full", "img_size"), ("samegrid", "img_size_samegrid")])
@torch.no_grad()
def test_logits(run: str, size: str, reference: Path, name: str) -> None:
    loaded, meta = load(reference, name)
    model = converted(reference, name, meta["config"][size])
    images = torch.from_numpy(loaded["input" if run == "full" else "samegrid/input"])
    expected = torch.from_numpy(loaded[f"{run}/logits"])
    torch.testing.assert_close(model(images), expected, **TOLERANCE)
    torch.testing.assert_close(wrap(model)(images), expected, **TOLERANCE)
    if f"{run}/encoded" in loaded:
        encoded = torch.from_numpy(loaded[f"{run}/encoded"])
        torch.testing.assert_close(model.forward_features(images), encoded, **TOLERANCE)
