"""Google's npz files through FFVT's official loader, with and without its fusion, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_vit import as_vit, official_names
from tavt_kit.models.wrap import wrap
from tests.parity.official import load, state_of
from tests.parity.test_ffvt import states

pytestmark = pytest.mark.kind("ffvt_google_loaded")
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


@torch.no_grad()
def test_googles_file_starts_an_ffvt(reference: Path, name: str) -> None:
    """The last block and the final norm keep what they were initialised with; everything else is loaded."""
    arrays, meta = load(reference, name)
    options: dict[str, Any] = {"image_size": meta["config"]["img_size"]}
    file, x = reference / f"{name.replace('_loaded', '_input')}.npz", torch.from_numpy(arrays["input"])
    plain, _ = convert(file, **options)
    torch.testing.assert_close(plain(x), torch.from_numpy(arrays["noff/logits"]), **TOLERANCE)
    torch.testing.assert_close(plain.forward_features(x), torch.from_numpy(arrays["noff/encoded"]), **TOLERANCE)  # type: ignore[operator]
    state = state_of(arrays, "noff/state/")
    for ours, theirs in official_names(meta["config"]["num_layers"]).items():
        expected = torch.cat([state[official] for official in theirs])
        torch.testing.assert_close(plain.state_dict()[ours], expected, atol=1e-6 * (ours == "pos_embed"), rtol=0)
    model, card = convert(file, family="ffvt", num_token=meta["config"]["num_token"], **options)
    assert card.name == "ffvt_base_patch16" and card.arguments["num_token"] == meta["config"]["num_token"]
    layers = range(meta["config"]["num_layers"] - 1)
    ordinary = {f"transformer.encoder.layer.{layer}.x": torch.zeros(1) for layer in layers}
    untouched = as_vit(state_of(arrays, "ff/untouched_state/") | ordinary, "ffvt")
    loaded = model.state_dict()
    for ours, theirs in official_names(meta["config"]["num_layers"]).items():
        if theirs[0] in untouched:
            loaded[ours] = torch.cat([untouched[official] for official in theirs])
        else:
            assert torch.equal(loaded[ours], plain.state_dict()[ours])
    model.load_state_dict(loaded)
    torch.testing.assert_close(model(x), torch.from_numpy(arrays["ff/logits"]), **TOLERANCE)
    torch.testing.assert_close(model.forward_features(x), torch.from_numpy(arrays["ff/encoded"]), **TOLERANCE)  # type: ignore[operator]
    for layer, (_, place) in enumerate(states(wrap(model), x)[-2].notes["taken"]):
        np.testing.assert_array_equal(place.numpy(), arrays[f"ff/selected_{layer}"])
