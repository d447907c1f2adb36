"""TAVT's official forward: every recorded quantity, through a wrapped timm ViT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.losses import contrastive_loss
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.flops import count_macs
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.parity.official import load, state_of, timm_from_official

pytestmark = pytest.mark.kind("tavt_forward")
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


def golden(reference: Path, name: str) -> tuple[AdaptiveViT, dict[str, Any], dict[str, Any], Tensor]:
    arrays, meta = load(reference, name)
    model = wrap(timm_from_official(state_of(arrays), meta["config"]))
    return model, arrays, meta, torch.from_numpy(arrays["input"])


def schedule_of(model: AdaptiveViT, arrays: dict[str, Any], run: str) -> TokenSchedule:
    """The recorded configuration; entries of layers that do not run are ignored by the official code."""
    executed = arrays.get(f"{run}/layer_config")
    lengths = arrays.get(f"{run}/length_config")
    layers = range(model.layers) if executed is None else executed.tolist()
    counts, count = [], model.tokens
    for layer in range(model.layers):
        if lengths is not None and layer in layers:
            count = int(lengths[layer])
        counts.append(count)
    return TokenSchedule(tuple(counts), None if executed is None else tuple(layers))


def runs_of(arrays: dict[str, Any]) -> list[str]:
    """``full``, ``lc0``, ``skip``, ... as recorded."""
    found = sorted({key.split("/")[0] for key in arrays if "/" in key} - {"state", "con_loss"})
    assert all(run == "full" or run.startswith(("lc", "skip")) for run in found), found
    return found


@torch.no_grad()
def test_logits_loss_and_restored_tokens(name: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
    for run in runs_of(arrays):
        compare_run(model, arrays, x, run)


def compare_run(model: AdaptiveViT, arrays: dict[str, Any], x: Tensor, run: str) -> None:
    model.schedule = schedule_of(model, arrays, run)
    expected = torch.from_numpy(arrays[f"{run}/logits"])
    state = model.advance(model.start(x, track=True), model.schedule.running, model.schedule.counts)
    logits, last = model.finish(state), state.last
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    torch.testing.assert_close(model(x), expected, **TOLERANCE)
    torch.testing.assert_close(model.forward_lean(x), expected, **TOLERANCE)
    encoded = torch.from_numpy(arrays[f"{run}/encoded"])
    torch.testing.assert_close(model.bare.norm(last), encoded, **TOLERANCE)
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
    torch.testing.assert_close(loss, torch.tensor(arrays[f"{run}/loss"]), **TOLERANCE)


@torch.no_grad()
def test_significance_order_and_positions(name: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
    for run in runs_of(arrays):
        if "lc" in run:
            compare_kept(model, arrays, x, run)


def compare_kept(model: AdaptiveViT, arrays: dict[str, Any], x: Tensor, run: str) -> None:
    schedule = schedule_of(model, arrays, run)
    state = model.start(x)
    everything = np.tile(np.arange(model.tokens), (len(x), 1))
    official = everything  # positions in the official order, which is score order
    for layer in model_layers(model, schedule):
        watch = Watch("column")
        attended = model.backbone.attend(layer, state, watch)
        assert watch.scores is not None
        ours = everything if state.place is None else state.place.numpy()
        scores = {(b, p): float(watch.scores[b, i]) for b in range(len(x)) for i, p in enumerate(ours[b])}
        if f"{run}/significance_{layer}" in arrays:
            theirs = arrays[f"{run}/significance_{layer}"]
            mine = np.array([[scores[b, p] for p in official[b, 1:]] for b in range(len(x))])
            np.testing.assert_allclose(mine, theirs, atol=5e-5, rtol=0)
            keep = arrays[f"{run}/keep_{layer}"]
            order = np.argsort(-mine, axis=1, kind="stable")[:, : schedule.counts[layer] - 1] + 1
            np.testing.assert_array_equal(np.concatenate([np.zeros((len(x), 1), int), order], axis=1), keep)
            official = np.take_along_axis(official, keep, axis=1)
            np.testing.assert_array_equal(official, arrays[f"{run}/positions_{layer}"])
        state = model.advance(state, [layer], schedule.counts)
        kept = everything if state.place is None else state.place.numpy()
        np.testing.assert_array_equal(kept, np.sort(official, axis=1))
        assert attended.count == len(scores) // len(x)


def model_layers(model: AdaptiveViT, schedule: TokenSchedule) -> list[int]:
    return [layer for layer in range(model.layers) if schedule.runs(layer)]


@torch.no_grad()
def test_contrastive_loss(name: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
    features = torch.from_numpy(arrays["full/encoded"])[:, 0]
    labels = torch.from_numpy(arrays["con_loss/labels"])
    torch.testing.assert_close(contrastive_loss(features, labels), torch.tensor(arrays["con_loss/value"]), **TOLERANCE)
    torch.testing.assert_close(model.forward_pooled(x), features, **TOLERANCE)


def test_official_macs_of_a_batch_of_eight(name: str, reference: Path) -> None:
    model, arrays, meta, _ = golden(reference, name)
    for run, macs in meta["torchprofile_macs_batch8"].items():
        assert 8 * count_macs(model, schedule_of(model, arrays, run), rule="tavt") == macs
