"""The parts that the latency table times are what the lean path runs: put together again they give its logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT, LeanViT, wrap
from tavt_kit.bench.clocks import OpenvinoClocks, _convert, _fix_first_input, clocks_for
from tavt_kit.bench.parts import AttendPart, DropPart, FeedPart, HeadPart, LastPart, StemPart
from tavt_kit.device import TargetDevice
from tavt_kit.errors import TargetError
from tavt_kit.schedule import TokenSchedule
from tavt_kit.timm_import import timm
from tests.contracts import zoo
from tests.runtimes.models import SIZE, images, tiny_vit

SIZES = {"img_size": SIZE, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "depth": 3, "num_classes": 5}


def shaken(name: str, **options: Any) -> AdaptiveViT:
    torch.manual_seed(1)
    model = timm.create_model(name, **{**SIZES, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return wrap(model)


MODELS = {
    "plain": lambda: tiny_vit(),
    "cls": lambda: tiny_vit(score="cls"),
    "pooling": lambda: shaken("vit_tiny_patch16_224", global_pool="avg", class_token=False),
    "rotary": lambda: shaken("eva02_tiny_patch14_224", embed_dim=64),
    "relative": lambda: shaken("beit_base_patch16_224"),
}
FUSING = {
    "ffvt": lambda: shaken("ffvt_base_patch16", num_token=2),
    "transfg": lambda: shaken("transfg_base_patch16"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_parts_put_together_are_the_lean_path(kind: str) -> None:
    model = MODELS[kind]()
    counts = (model.tokens, model.tokens - 5, model.tokens - 9)
    x = torch.from_numpy(images(2))
    with torch.inference_mode():
        wanted = LeanViT(model, TokenSchedule(counts))(x)
        notes = model.start(x).notes
        # Places are lost between parts, so this follows them as the table's inputs do: by hand.
        tokens, place = StemPart(model, (), notes, False)(x), None
        (tokens,) = AttendPart(model, (0,), notes, False)(tokens)
        tokens = FeedPart(model, (0,), notes, False)(tokens)
        place = kept_places(model, x, counts)
        (tokens,) = DropPart(model, (1,), notes, False)(counts[1], tokens)
        tokens = FeedPart(model, (1,), notes, False)(tokens)
        if model.token_pooled:
            (tokens,) = LastPart(model, (2,), notes, True)(tokens, place)
        else:
            (tokens,) = DropPart(model, (2,), notes, True)(counts[2], tokens, place)
            tokens = FeedPart(model, (2,), notes, True)(tokens)
        found = HeadPart(model, (), notes, False)(tokens)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", FUSING)
def test_the_parts_of_a_fusing_model_run_alone(kind: str) -> None:
    """What a layer takes from those before it is made up, so only what does not hang on it can be compared."""
    model = FUSING[kind]()
    x = torch.from_numpy(images(2))
    with torch.inference_mode():
        tokens = StemPart(model, (), {}, False)(x)
        attended, *along = AttendPart(model, (0, 1), {}, False)(tokens)
        assert attended.shape == tokens.shape and len(along) == (2 if kind == "ffvt" else 0)
        state = model.start(x)
        for layer in (0, 1):
            state = model.backbone.attend(layer, state, None)
        assert torch.equal(attended, state.tokens)
        (kept,) = DropPart(model, (1,), {}, False)(5, tokens)
        assert FeedPart(model, (1,), {}, False)(kept).shape == (2, 5, 64)
        (fused,) = LastPart(model, (2,), {}, False)(tokens)
        assert fused.shape == (2, 1, 64) and HeadPart(model, (), {}, False)(fused).shape == (2, 5)


def kept_places(model: AdaptiveViT, x: Tensor, counts: tuple[int, ...]) -> Tensor:
    model.schedule = TokenSchedule(counts)
    return model.forward_kept(x)[1][1]


def test_openvino_runs_the_same_drop_with_the_count_as_a_constant() -> None:
    model = tiny_vit()
    clocks = OpenvinoClocks(model, TargetDevice.parse("openvino:cpu:threads=1"))
    part = DropPart(clocks.model, (0, 2), {}, True)
    tokens = np.random.default_rng(0).standard_normal((1, 13, 64), dtype=np.float32)
    graph = _convert(part, [tokens, tokens])
    assert len(graph.inputs) == 3
    _fix_first_input(graph, 7)
    assert len(graph.inputs) == 2
    found = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([tokens, tokens])
    with torch.inference_mode():
        wanted = part(7, torch.from_numpy(tokens), torch.from_numpy(tokens))
    for place, rows in enumerate(wanted):
        assert found[place].shape == (1, 7, 64)
        np.testing.assert_allclose(found[place], rows.numpy(), atol=1e-4)


def test_targets_without_live_models_are_refused() -> None:
    for text in ("openvino:cpu:precision=int8", "onnxruntime:cpu"):
        with pytest.raises(TargetError, match="latency table is measured on torch or OpenVINO"):
            clocks_for(tiny_vit(), TargetDevice.parse(text))


@pytest.mark.parametrize("kind", zoo.VITAE)
def test_parts_of_a_model_with_convolutions_run_on_any_number_of_tokens(kind: str) -> None:
    model = wrap(zoo.build(kind))
    x = zoo.images(model.bare)
    count = model.tokens - 5
    with torch.inference_mode():
        state = model.start(x)
        tokens, notes = state.tokens, state.notes
        (attended,) = AttendPart(model, (0,), notes, False)(tokens)
        wanted = model.advance(state, [0], model.dense_schedule.counts)
        assert torch.equal(FeedPart(model, (0,), notes, False)(attended), wanted.tokens)
        few = tokens[:, :count]
        (attended,) = AttendPart(model, (0,), notes, False)(few)
        (dropped,) = DropPart(model, (0,), notes, False)(count - 2, few)
        assert attended.shape == few.shape and dropped.shape == (len(x), count - 2, tokens.shape[2])
        assert HeadPart(model, (), notes, False)(few).shape == (len(x), 7)


def test_openvino_converts_parts_of_a_grid_once_for_every_length() -> None:
    clocks = OpenvinoClocks(wrap(zoo.build("vitaev2")), TargetDevice.parse("openvino:cpu:threads=1"))
    rng = np.random.default_rng(0)
    attend, head = AttendPart(clocks.model, (0, 1), {}, False), HeadPart(clocks.model, (), {}, False)
    for count in (clocks.model.tokens, 7):
        tokens = rng.standard_normal((1, count, 24), dtype=np.float32)
        for part in (attend, head):
            assert clocks.clock(part, [tokens])() > 0
