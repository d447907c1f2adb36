"""FGVC-PIM's official forward, evaluation and training step: every recorded quantity, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tavt_kit.checkpoints import convert
from tavt_kit.checkpoints.official_pim import read_pim
from tavt_kit.checkpoints.official_vit import ConvertOptions
from tavt_kit.core.device import TargetDevice
from tavt_kit.distill.losses import pim_kind, pim_loss, pim_terms
from tavt_kit.distill.options import Objective
from tavt_kit.evaluation.pim_evaluation import HeadCounts, PimHeads
from tavt_kit.models.backbones.pim import by_confidence, fuse_heads, head_order, head_scores
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tavt_kit.runtimes import open_module
from tests.parity.official import as_pim_v0, load, state_of, take_step

pytestmark = pytest.mark.kind("pim_swin", "pim_vit")
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


def converted(arrays: Any, meta: Any, folder: Path, v0: bool = False) -> tuple[Any, Any]:
    """As ``best.pt`` of v1 holds it, or a ``.pth`` of v0; dropout and drop path off, as recorded."""
    state = state_of(arrays)
    file = folder / ("best.pth" if v0 else "best.pt")
    optimizer = {"state": {}, "param_groups": [{"lr": 5e-4, "params": [0, 1]}]}
    torch.save({"model": as_pim_v0(state) if v0 else state, "optimizer": optimizer, "epoch": 3}, file)
    config = meta["config"]
    heads = config["backbone_kwargs"]["num_heads"] if config["backbone"] == "vit" else None
    model, card = convert(file, heads=heads, num_selects=tuple(config["num_selects"].values()))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, timm.layers.DropPath):
            module.drop_prob = 0.0
    return model, card


def close(mine: Tensor, theirs: Any) -> None:
    torch.testing.assert_close(mine.detach(), torch.as_tensor(theirs), **TOLERANCE)


@torch.no_grad()
def test_every_output_level_rank_and_selected_feature(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, card = converted(arrays, meta, tmp_path)
    x = torch.from_numpy(arrays["input"])
    outputs = model.forward_outputs(x)
    assert list(outputs) == meta["output_order"]
    for key, mine in outputs.items():
        close(mine, arrays[f"eval/out/{key}"])
    levels = model.levels(x)
    features, logits = model.judge(levels)
    for level in range(4):
        close(levels[level][0], arrays[f"eval/backbone/layer{level + 1}_sample0"])
        close(features[level][0], arrays[f"eval/fpn/layer{level + 1}_sample0"])
        order = by_confidence(logits[level], logits[level].shape[1])
        np.testing.assert_array_equal(order.numpy(), arrays[f"eval/ranks/layer{level + 1}"])
        close(logits[level].softmax(2).amax(2), arrays[f"eval/confidence/layer{level + 1}"])
    for level, selected in enumerate(model.selected(features, logits), 1):
        close(selected, arrays[f"eval/selected_features/layer{level}"])
    close(model(x), arrays["eval/out/comb_outs"])
    close(wrap(model)(x), arrays["eval/out/comb_outs"])
    assert "FGVC-PIM" in card.provenance and card.arguments["num_selects"] == list(
        meta["config"]["num_selects"].values()
    )


@torch.no_grad()
def test_fusion_of_heads_as_the_official_evaluation(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, _ = converted(arrays, meta, tmp_path)
    x, labels = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["labels"])
    scores = head_scores(model.forward_outputs(x))
    close(scores, arrays["eval/head_scores"])
    assert meta["head_names"] == ["layer1", "layer2", "layer3", "layer4", "combiner"]
    order = head_order(scores, "official")
    np.testing.assert_array_equal(order.numpy(), arrays["eval/fuse_order_ascending_confidence"])
    np.testing.assert_array_equal(head_order(scores).numpy(), order.flip(1).numpy())
    for count in range(1, 6):
        fused = fuse_heads(scores, count, "official")
        close(fused, arrays["eval/fused_sum_first_k"][:, count - 1])
        np.testing.assert_array_equal(fused.argmax(1).numpy(), arrays["eval/fused_argmax_first_k"][:, count - 1])
        assert int((fused.argmax(1) == labels).sum()) == meta["accuracy_counts"][f"highest-{count}"]
    for head, title in enumerate(meta["head_names"]):
        best = scores[:, head].topk(3, dim=1).indices == labels[:, None]
        assert int(best[:, :1].sum()) == meta["accuracy_counts"][f"{title}-top-1"]
        assert int(best.sum()) == meta["accuracy_counts"][f"{title}-top-3"]
    # The sum of all five needs no order; it is what head "sum" gives, as logarithms of the mean.
    model.head = "sum"
    close(model(x).exp() * 5, fuse_heads(scores, 5))
    close(fuse_heads(scores, 5), arrays["eval/fused_sum_first_k"][:, 4])


@torch.no_grad()
def test_what_eval_counts_is_what_the_official_evaluation_counts(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, _ = converted(arrays, meta, tmp_path)
    adaptive = wrap(model.eval())
    heads = PimHeads(adaptive, adaptive.dense_schedule).eval()
    session = HeadCounts(open_module(heads, TargetDevice.parse("torch:cpu"), arrays["input"].shape), model)
    close(torch.from_numpy(session(arrays["input"])), arrays["eval/out/comb_outs"])
    session.count(arrays["labels"])
    record, n = session.as_record("test"), len(arrays["labels"])
    counts = {
        f"{head}-top-{top}": round(one[f"top{top}"]["value"] * n)
        for head, one in record["heads"].items()
        for top in (1, 3)
    }
    counts |= {fused: round(one["top1"]["value"] * n) for fused, one in record["fused_official"].items()}
    assert counts == meta["accuracy_counts"]
    assert record["official"]["top1"]["value"] * n == max(c for key, c in counts.items() if "top-3" not in key)
    for group, share in record["tokens"].items():
        said = torch.from_numpy(arrays[f"eval/out/{group}"]).argmax(2).numpy()
        assert share == pytest.approx(float((said == arrays["labels"][:, None]).mean()), abs=1e-6), group


def test_training_step(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    model, _ = converted(arrays, meta, tmp_path)
    x, labels, lambdas = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["labels"]), meta["lambdas"]
    lambdas = [lambdas[f"lambda_{part}"] for part in "bsnc"]
    weights = dict(zip(("level", "selected", "dropped", "combined"), lambdas, strict=True))
    model.train()
    outputs = model.forward_outputs(x)
    assert list(outputs) == meta["output_order"]
    for key, mine in outputs.items():
        close(mine, arrays[f"train/out/{key}"])
    terms = pim_terms(outputs, labels)
    assert set(terms) == set(meta["train_terms"])
    for key, term in meta["train_terms"].items():
        assert terms[key].item() == pytest.approx(term["value"], rel=1e-5), key
        assert weights[pim_kind(key)] == term["weight"], key
    model, _ = converted(arrays, meta, tmp_path)  # the pass above has moved the statistics of the norms
    objective, parts = Objective("pim", weights), meta["config"]["update_freq"]
    found = take_step(wrap(model).train(), objective, arrays, accumulation=parts)
    assert found["loss"] == pytest.approx(meta["train_total_before_update_freq"], rel=1e-5)
    assert found["loss"] == pytest.approx(pim_loss(outputs, labels, weights).item(), rel=1e-6)
    assert found["loss"] / parts == pytest.approx(meta["train_backward_value"], rel=1e-5)
    norms = {key.removeprefix("train/gradnorm/"): float(arrays[key]) for key in arrays if "gradnorm/" in key}
    # Read as a file of norms, so that they get our names the way the weights do.
    mine = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    aliases = our_names(arrays, meta)
    assert {aliases[key] for key in norms} == set(mine) == {n for n, _ in model.named_parameters()}
    for key, norm in norms.items():
        assert mine[aliases[key]] == pytest.approx(norm, rel=1e-4, abs=1e-6), key
    buffers = {key.removeprefix("train/buffers_after/"): arrays[key] for key in arrays if "buffers_after/" in key}
    assert len(buffers) == 10
    for key, value in buffers.items():
        close(model.state_dict()[aliases[key]], value)


def our_names(arrays: Any, meta: Any) -> dict[str, str]:
    """The official name of each tensor -> ours: every tensor is read as one that holds its own number."""
    state = state_of(arrays)
    numbered = {name: torch.full_like(t, i, dtype=torch.float64) for i, (name, t) in enumerate(state.items())}
    heads = meta["config"]["backbone_kwargs"]["num_heads"]
    asked = ConvertOptions(
        heads=None if isinstance(heads, list) else heads, num_selects=tuple(meta["config"]["num_selects"].values())
    )
    found = read_pim(numbered, asked)
    assert found is not None
    names = list(state)
    return {names[int(tensor.flatten()[0])]: ours for ours, tensor in found.tensors.items()}


@torch.no_grad()
def test_files_of_v0_are_the_same_model(name: str, reference: Path, tmp_path: Path) -> None:
    arrays, meta = load(reference, name)
    first, _ = converted(arrays, meta, tmp_path)
    second, _ = converted(arrays, meta, tmp_path, v0=True)
    assert list(first.state_dict()) == list(second.state_dict())
    for mine, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
