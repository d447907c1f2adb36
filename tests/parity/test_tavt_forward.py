"""TAVT's official forward: every recorded quantity, through a wrapped timm ViT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT, wrap
from tavt_kit.backbones.base import Watch
from tavt_kit.distill.contrastive import contrastive_loss
from tavt_kit.macs import count_macs
from tavt_kit.schedule import TokenSchedule
from tests.parity.official import load, state_of, timm_from_official

CASES = [
    (name, run)
    for name, runs in {
        "tavt_forward_a": ("full", "lc0", "lc1", "lc2", "skip", "skiplc"),
        "tavt_forward_overlap": ("full", "lc0", "lc1", "skip", "skiplc"),
    }.items()
    for run in runs
]
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


def test_every_recorded_run_is_compared(reference: Path) -> None:
    for name in ("tavt_forward_a", "tavt_forward_overlap"):
        arrays, _ = load(reference, name)
        recorded = {key.split("/")[0] for key in arrays if "/" in key} - {"state", "con_loss"}
        assert recorded == {run for file, run in CASES if file == name}


@pytest.mark.parametrize(("name", "run"), CASES)
@torch.no_grad()
def test_logits_loss_and_restored_tokens(name: str, run: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
    model.schedule = schedule_of(model, arrays, run)
    expected = torch.from_numpy(arrays[f"{run}/logits"])
    logits, last = model.forward_restored(x)
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    torch.testing.assert_close(model(x), expected, **TOLERANCE)
    torch.testing.assert_close(model.forward_lean(x), expected, **TOLERANCE)
    encoded = torch.from_numpy(arrays[f"{run}/encoded"])
    torch.testing.assert_close(model.bare.norm(last), encoded, **TOLERANCE)
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
    torch.testing.assert_close(loss, torch.tensor(arrays[f"{run}/loss"]), **TOLERANCE)


@pytest.mark.parametrize(("name", "run"), [case for case in CASES if "lc" in case[1]])
@torch.no_grad()
def test_significance_order_and_positions(name: str, run: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
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


@pytest.mark.parametrize("name", ["tavt_forward_a", "tavt_forward_overlap"])
@torch.no_grad()
def test_contrastive_loss(name: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
    features = torch.from_numpy(arrays["full/encoded"])[:, 0]
    labels = torch.from_numpy(arrays["con_loss/labels"])
    torch.testing.assert_close(contrastive_loss(features, labels), torch.tensor(arrays["con_loss/value"]), **TOLERANCE)
    torch.testing.assert_close(model.forward_pooled(x), features, **TOLERANCE)


@pytest.mark.parametrize("name", ["tavt_forward_a", "tavt_forward_overlap"])
def test_official_macs_of_a_batch_of_eight(name: str, reference: Path) -> None:
    model, arrays, meta, _ = golden(reference, name)
    for run, macs in meta["torchprofile_macs_batch8"].items():
        assert 8 * count_macs(model, schedule_of(model, arrays, run), rule="tavt") == macs


@torch.no_grad()
def test_plain_vit_and_its_attention_maps(reference: Path) -> None:
    model, arrays, _, x = golden(reference, "vitpytorch")
    logits = model(x)
    torch.testing.assert_close(logits, torch.from_numpy(arrays["logits"]), **TOLERANCE)
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
    torch.testing.assert_close(loss, torch.tensor(arrays["loss"]), **TOLERANCE)
    state = model.start(x)
    for layer in range(model.layers):
        seen = MapWatch()
        state = model.backbone.feed(layer, model.backbone.attend(layer, state, seen))
        expected = torch.from_numpy(arrays[f"attention_{layer}_sample0"])
        torch.testing.assert_close(seen.maps[0][0], expected, **TOLERANCE)


class MapWatch(Watch):
    """A watch that keeps the whole attention map."""

    def __init__(self) -> None:
        super().__init__("column")
        self.maps: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: Any, dropout: float) -> Tensor:
        from tavt_kit.scores import attention_map

        self.maps.append(attention_map(q, k, bias, scale))
        return super().__call__(q, k, v, bias, scale, dropout)
