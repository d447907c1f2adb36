"""The closed form against the official figures and against a counting pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError, UnknownName
from tavt_kit.models.backbones.registry import overlapping
from tavt_kit.models.costs import count_pass
from tavt_kit.models.flops import MacsFormula, count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tests.contracts.zoo import QUICK, VITAE, ZOO, build, images, made_once
from tests.parameters import few

CLS = ("plain", "deit_distilled", "dinov2_registers")
"""Whose class token's score is counted among the quick tests, too."""


def vit_b16(size: int, classes: int = 200) -> AdaptiveViT:
    return wrap(sketch("vit_base_patch16_224", {"img_size": size, "num_classes": classes}))


def test_tavt_rule_gives_the_official_figures() -> None:
    model = vit_b16(448)
    assert count_macs(model, rule="tavt") == 78_509_611_776
    assert count_macs(model, TokenSchedule.taper(TokenLayout(785, 12), 0.2), rule="tavt") == 25_667_251_200


@pytest.mark.parametrize(("name", "size", "classes"), [
    ("tavt:vit_b16_224", 224, 200), ("tavt:vit_b16_224_1000", 224, 1000),
    ("tavt:vit_b16_448", 448, 200), ("tavt:vit_b16_448_1000", 448, 1000),
])  # fmt: skip
def test_matmul_rule_gives_the_recorded_facts(name: str, size: int, classes: int, reference: Path) -> None:
    facts = json.loads((reference / "fullsize_facts.json").read_text())
    assert count_macs(vit_b16(size, classes), rule="matmul") == facts[name]["macs"]


@pytest.mark.parametrize("size", [224, 448])
def test_ffvt_has_the_official_parameters_and_macs(size: int, reference: Path) -> None:
    facts = json.loads((reference / "fullsize_facts.json").read_text())[f"ffvt:ffvt_b16_{size}_numtoken12"]
    model = wrap(sketch("ffvt_base_patch16", {"img_size": size, "num_classes": 200}))
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params"]
    assert count_macs(model, rule="matmul") == facts["macs"]


@pytest.mark.parametrize(("name", "step", "tokens"), [("nonoverlap", None, 785), ("overlap12", 12, 1370)])
def test_transfg_saves_the_product_of_whole_maps(name: str, step: int | None, tokens: int, reference: Path) -> None:
    facts = json.loads((reference / "fullsize_facts.json").read_text())[f"transfg:transfg_b16_448_{name}"]
    split = {} if step is None else overlapping(step)
    model = wrap(sketch("transfg_base_patch16", {"num_classes": 200, **split}))
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params"]
    products, vectors = (10 * 12 * tokens**power for power in (3, 2))  # of 11 maps with 12 heads
    assert count_macs(model, rule="matmul") + products - vectors == facts["macs"]


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        *few([(kind, "column") for kind in ZOO], *((kind, "column") for kind in QUICK)),
        *few([(kind, "cls") for kind in ZOO], *((kind, "cls") for kind in CLS)),
    ],
)
def test_executed_rule_equals_a_counting_pass(kind: str, score: str) -> None:
    adaptive = wrap(made_once(kind))
    if score == "cls":
        if not adaptive.backbone.has_class_token:
            pytest.skip("no class token")
        adaptive.score = score
    prefix, patches = adaptive.prefix, adaptive.tokens - adaptive.prefix
    dropped = TokenSchedule(tuple(prefix + max(2, round(patches * share)) for share in (0.8, 0.8, 0.5, 0.3)))
    for schedule in (adaptive.dense_schedule, dropped):
        counted = count_pass(LeanViT(adaptive, schedule), images(adaptive.bare, batch=1))
        assert count_macs(adaptive, schedule) == counted


@pytest.mark.parametrize("kind", ["siglip", *VITAE])
def test_restored_pooling_is_counted(kind: str) -> None:
    adaptive = wrap(build(kind), pool="restored")
    adaptive.schedule = TokenSchedule((16, 12, 8, 4))
    counted = count_pass(LeanViT(adaptive), images(adaptive.bare, batch=1))
    assert count_macs(adaptive) == counted


def test_a_static_model_counts_its_attention_on_every_device() -> None:
    """On a CPU, and as a sketch without weights, by our count and by a counting pass."""
    arguments = {"num_classes": 5, "img_size": 64, "resnet_blocks": (1, 1, 1), "resnet_width": 32}
    model = wrap(timm.create_model("mixvit_hybrid_r50", **arguments).eval())
    unfilled = wrap(sketch("mixvit_hybrid_r50", arguments).eval())
    counted = count_pass(LeanViT(model), torch.zeros(1, 3, 64, 64))
    assert count_macs(model) == count_macs(unfilled) == counted


def test_skipped_layers_cost_nothing() -> None:
    adaptive = wrap(build("plain"))
    schedule = TokenSchedule((17, 17, 9, 9), executed=(0, 2))
    counted = count_pass(LeanViT(adaptive, schedule), images(adaptive.bare, batch=1))
    assert count_macs(adaptive, schedule) == counted


def test_many_schedules_at_once_equal_one_by_one() -> None:
    formula = MacsFormula.of(wrap(build("plain")))
    counts = np.sort(np.random.default_rng(0).integers(2, 18, (50, 4)), axis=1)[:, ::-1]
    many = formula.macs_many(counts)
    assert many.tolist() == [formula.macs(TokenSchedule(tuple(row.tolist()))) for row in counts]


def test_wrong_questions_are_refused() -> None:
    adaptive = wrap(build("plain"))
    with pytest.raises(ScheduleError, match="4 layers"):
        count_macs(adaptive, TokenSchedule((17, 17)))
    with pytest.raises(UnknownName, match="rule must be one of"):
        count_macs(adaptive, rule="flops")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["plain", "no_class_token", "ffvt", "vitae"])
@pytest.mark.parametrize("rule", few(["executed", "tavt", "matmul"], "executed"))
def test_one_schedule_at_a_time_counts_as_many_at_once(kind: str, rule: Any) -> None:
    model = wrap(build(kind))
    formula = MacsFormula.of(model, rule)
    rng = np.random.default_rng(0)
    for executed in (None, (0, 2, 3)):
        counts = np.sort(rng.integers(max(2, model.prefix + 1), model.tokens + 1, size=(30, model.layers)))[:, ::-1]
        counts = counts[:, (0, 0, 2, 3)] if executed else counts  # a layer that does not run repeats the one before
        one_by_one = [count_macs(model, TokenSchedule(tuple(map(int, row)), executed), rule) for row in counts]
        assert one_by_one == formula.macs_many(counts, executed).tolist()


def test_a_model_that_was_pruned_in_place_is_counted_anew() -> None:
    model = wrap(build("plain"))
    before = count_macs(model)
    first = model.bare.blocks[0].mlp  # type: ignore[index, union-attr]
    first.fc1, first.fc2 = torch.nn.Linear(48, 10), torch.nn.Linear(10, 48)  # type: ignore[union-attr]
    assert before - count_macs(model) == 2 * 48 * (192 - 10) * model.tokens
    second = model.bare.blocks[1].mlp  # type: ignore[index, union-attr]
    second.fc1.weight = torch.nn.Parameter(second.fc1.weight[:96])  # type: ignore[union-attr]
    second.fc1.out_features = 96  # type: ignore[union-attr]
    assert count_macs(model) < before - 2 * 48 * (192 - 10) * model.tokens
