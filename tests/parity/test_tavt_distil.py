"""One optimiser step of TAVT's official distillation: every recorded quantity, through ``sandwich_step``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.checkpoints.official_vit import official_names
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.losses import divergence
from tavt_kit.distill.optimizer import make_optimiser
from tavt_kit.distill.options import LearningRate, OptimizerOptions
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.sandwich import SandwichRule, SandwichStep, sandwich_step
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.parity.official import load, state_of, timm_from_official

pytestmark = pytest.mark.kind("tavt_distil")
VARIANTS = ("plain", "layerdrop", "accum2")
LOGITS = {"atol": 5e-5, "rtol": 0.0}
GRADIENTS = {"atol": 1e-5, "rtol": 1e-4}


def golden(reference: Path, name: str) -> tuple[AdaptiveViT, dict[str, Any], dict[str, Any]]:
    arrays, meta = load(reference, name)
    return wrap(timm_from_official(state_of(arrays), meta["config"])).train(), arrays, meta


def schedule_of(model: AdaptiveViT, call: dict[str, Any]) -> TokenSchedule:
    layers = tuple(call["layer_config"])
    executed = None if len(layers) == model.layers else layers
    counts = call["length_config"] or [model.tokens] * model.layers
    return TokenSchedule(tuple(counts), executed)


def micro_batches(variant: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The recorded calls of each micro-batch, the full one first."""
    calls = variant["calls"]
    return [
        [call for call in calls if call["microbatch"] == batch] for batch in range(variant["settings"].get("accum", 1))
    ]


def run(model: AdaptiveViT, arrays: dict[str, Any], name: str, variant: dict[str, Any]) -> list[SandwichStep]:
    """Our step with the recorded configurations; gradients are left on the model."""
    rule = SandwichRule(accumulation=variant["settings"].get("accum", 1), divide_full=False)
    steps = []
    for batch, calls in enumerate(micro_batches(variant)):
        full, *subs = (schedule_of(model, call) for call in calls)
        images = torch.from_numpy(arrays[f"{name}/input_{batch}"])
        labels = torch.from_numpy(arrays[f"{name}/labels_{batch}"])
        steps.append(sandwich_step(model, images, labels, subs, full=full, rule=rule))
    return steps


def official_pieces(model: AdaptiveViT, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by timm's names, cut back into the official ones."""
    pieces = {}
    for ours, theirs in official_names(model.layers).items():
        pieces |= dict(zip(theirs, values[ours].chunk(len(theirs)), strict=True))
    return pieces


def gradients(model: AdaptiveViT) -> dict[str, Tensor]:
    # A layer that layer dropout left out everywhere has none; the official code adds 0 * sum(parameters).
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def test_every_variant_is_compared(name: str, reference: Path) -> None:
    arrays, meta = load(reference, name)
    assert set(meta["variants"]) == set(VARIANTS)
    assert {key.split("/")[0] for key in arrays} == {*VARIANTS, "state"}


@pytest.mark.parametrize("variant_name", VARIANTS)
def test_logits_losses_and_what_is_differentiated(variant_name: str, name: str, reference: Path) -> None:
    model, arrays, meta = golden(reference, name)
    variant = meta["variants"][variant_name]
    steps = run(model, arrays, variant_name, variant)
    number, total = 0, 0.0
    for batch, (calls, step) in enumerate(zip(micro_batches(variant), steps, strict=True)):
        labels = torch.from_numpy(arrays[f"{variant_name}/labels_{batch}"])
        assert step.full["cross_entropy"].item() == pytest.approx(calls[0]["ce"], abs=5e-5)
        for call, logits in zip(calls, step.logits, strict=True):
            torch.testing.assert_close(
                logits, torch.from_numpy(arrays[f"{variant_name}/call{number}/logits"]), **LOGITS
            )
            ours = F.cross_entropy(logits, labels).item()  # the official code computes all of them, and uses one
            assert ours == pytest.approx(float(arrays[f"{variant_name}/call{number}/ce"]), abs=5e-5)
            assert ours == pytest.approx(call["ce"], abs=5e-5)
            number += 1
        for call, ours, logits in zip(calls[1:], step.divergences, step.logits[1:], strict=True):
            assert ours.item() == pytest.approx(call["kl_student_teacher_batchmean"], abs=2e-5)
            other = divergence(logits, step.logits[0], "forward").item()
            assert other == pytest.approx(call["kl_teacher_student_batchmean_NOT_used"], abs=2e-5)
        assert step.loss.item() == pytest.approx(sum(call["backward_value"] for call in calls), abs=5e-5)
        total += step.loss.item()
    assert number == len(variant["calls"])
    assert total == pytest.approx(variant["total_backward_sum"], abs=1e-4)


@pytest.mark.parametrize("variant_name", VARIANTS)
def test_each_backward_value(variant_name: str, name: str, reference: Path) -> None:
    model, arrays, meta = golden(reference, name)
    variant = meta["variants"][variant_name]
    rule = SandwichRule(accumulation=variant["settings"].get("accum", 1), divide_full=False)
    for batch, calls in enumerate(micro_batches(variant)):
        full, *subs = (schedule_of(model, call) for call in calls)
        images = torch.from_numpy(arrays[f"{variant_name}/input_{batch}"])
        labels = torch.from_numpy(arrays[f"{variant_name}/labels_{batch}"])
        seen: list[float] = []
        sandwich_step(
            model, images, labels, subs, full=full, rule=rule, backward=lambda loss, seen=seen: seen.append(loss.item())
        )
        expected = [call["backward_value"] for call in calls]
        assert seen[0] == pytest.approx(expected[0], abs=2e-5)
        assert sorted(seen) == pytest.approx(sorted(expected), abs=2e-5)  # those that share more go first


@pytest.mark.parametrize("variant_name", VARIANTS)
def test_gradients_and_the_updated_weights(variant_name: str, name: str, reference: Path) -> None:
    model, arrays, meta = golden(reference, name)
    variant = meta["variants"][variant_name]
    run(model, arrays, variant_name, variant)
    pieces = official_pieces(model, gradients(model))
    recorded = {
        key.removeprefix(f"{variant_name}/gradnorm/"): arrays[key]
        for key in arrays
        if f"{variant_name}/gradnorm/" in key
    }
    assert recorded.keys() == pieces.keys()
    for key, norm in recorded.items():
        assert pieces[key].norm().item() == pytest.approx(float(norm), rel=1e-4, abs=1e-5), key
    whole = [key for key in arrays if key.startswith(f"{variant_name}/grad/")]
    assert len(whole) == 4
    for key in whole:
        torch.testing.assert_close(
            pieces[key.removeprefix(f"{variant_name}/grad/")], torch.from_numpy(arrays[key]), **GRADIENTS
        )

    settings = variant["sgd"]
    rate = LearningRate(variant["base_lr"], 10, 60, variant["settings"].get("decay", "cosine")).at(1)
    assert rate == pytest.approx(variant["lr_used"][0], rel=1e-12)
    moved = OptimizerOptions(
        optimiser="sgd", lr=rate, weight_decay=settings["weight_decay"], momentum=settings["momentum"], decay_all=True
    )
    optimiser = make_optimiser(model, moved)
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), variant["max_grad_norm"])
    assert total.item() == pytest.approx(variant["grad_total_norm_before_clip"], rel=1e-4)
    optimiser.step()
    updated = official_pieces(model, {key: p.detach() for key, p in model.named_parameters()})
    stepped = [key for key in arrays if key.startswith(f"{variant_name}/after_step/")]
    assert len(stepped) == 4
    for key in stepped:
        ours = updated[key.removeprefix(f"{variant_name}/after_step/")]
        torch.testing.assert_close(ours, torch.from_numpy(arrays[key]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant_name", VARIANTS)
def test_the_official_stream_of_random_numbers_gives_the_recorded_configurations(
    variant_name: str, name: str, reference: Path
) -> None:
    model, _, meta = golden(reference, name)
    variant = meta["variants"][variant_name]
    settings = variant["settings"]
    sampler = Sampler(
        model.layout,
        bound=settings["bound"],
        random=settings["num_sandwich"],
        layer_dropout=settings["layer_dropout_prob"],
    )
    draws = np.random.RandomState(settings["np_seed"])
    for calls in micro_batches(variant):
        full, subs = sampler.draw(draws)
        for ours, call in zip((full, *subs), calls, strict=True):
            assert list(range(model.layers) if ours.executed is None else ours.executed) == call["layer_config"]
            assert list(ours.counts) == (call["length_config"] or [model.tokens] * model.layers)


def test_the_plain_and_the_lean_path_and_shared_frozen_layers_agree(name: str, reference: Path) -> None:
    model, arrays, meta = golden(reference, name)
    calls = micro_batches(meta["variants"]["plain"])[0]
    full, *subs = (schedule_of(model, call) for call in calls)
    images, labels = (torch.from_numpy(arrays[f"plain/{kind}_0"]) for kind in ("input", "labels"))
    found = []
    for lean in (False, True):
        model.zero_grad()
        sandwich_step(model, images, labels, subs, full=full, rule=SandwichRule(lean=lean))
        found.append(gradients(model))
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, **GRADIENTS)
