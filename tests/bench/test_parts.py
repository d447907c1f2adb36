"""The parts that the latency table times are what the lean path runs: put together again they give its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tavt_kit.bench.parts import (
    CALIBRATION,
    AttendPart,
    DropPart,
    FeedPart,
    HeadPart,
    LastPart,
    LayerParts,
    StemPart,
    part_graphs,
    whole_graph,
)
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ExportError
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tavt_kit.runtimes import runtime_of
from tavt_kit.runtimes.on_openvino import _fix_first_input, openvino_core
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
        if model.layout.token_pooled:
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


def graphs(model: AdaptiveViT, text: str) -> Callable[[str], Any]:
    shop = LayerParts(model, TargetDevice.parse(text), 4)
    return part_graphs(shop.parts, shop.plan("model"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kind, f"{runtime}:cpu:threads=1")
        for runtime in ("onnxruntime", "openvino")
        for kind in ("plain", "rotary", "relative")
    ],
)
def test_one_graph_of_a_part_is_the_part_at_every_length(kind: str, text: str) -> None:
    """The eager part takes the very places that a graph is given as its last input."""
    model = MODELS[kind]()
    shop = LayerParts(model, TargetDevice.parse(text), 4)
    plan = shop.plan("model")
    graph = part_graphs(shop.parts, plan)
    drop = next(cell for cell in plan.cells if cell.kind == "drop" and cell.count < model.tokens)
    rng = np.random.default_rng(3)
    for name, count in ((drop.part, 9), (drop.part, 13), ("feed", 9), ("stem", model.tokens)):
        cell = replace(next(one for one in plan.cells if one.part == name), count=count)
        arrays = plan.inputs(cell, plan.images(rng), rng)
        kept = [5] if name == drop.part else []
        shop.model.selection = "argsort"
        with torch.inference_mode():
            wanted = shop.parts[name](*kept, *map(torch.from_numpy, arrays))
        shop.model.selection = "topk" if text.startswith("onnx") else "argsort"
        found = run(graph(name), [*(np.array(one) for one in kept), *arrays])
        for one, other in zip(found, wanted if isinstance(wanted, tuple) else [wanted], strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-4)


def run(graph: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    if isinstance(graph, bytes):
        session = onnxruntime.InferenceSession(graph)
        names = [one.name for one in session.get_inputs()]
        found: list[np.ndarray] = session.run(None, dict(zip(names, arrays, strict=True)))
        return found
    compiled = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [*compiled(arrays).values()]


@pytest.mark.slow
def test_openvino_takes_the_count_as_a_constant() -> None:
    graph = graphs(tiny_vit(), "openvino:cpu:threads=1")("drop").clone()
    tokens = np.random.default_rng(0).standard_normal((1, 13, 64), dtype=np.float32)
    layers = len(graph.inputs) - 1
    before = run(graph, [np.array(7), *[tokens] * layers])
    _fix_first_input(graph, 7)
    assert len(graph.inputs) == layers
    for one, other in zip(run(graph, [tokens] * layers), before, strict=True):
        assert one.shape == (1, 7, 64) and np.array_equal(one, other)


@pytest.mark.parametrize(
    "text",
    [pytest.param("openvino:cpu:precision=int8", marks=pytest.mark.slow), "onnxruntime:cpu:precision=int8"],
)
def test_int8_parts_and_whole_passes_are_quantized_and_say_on_what(text: str) -> None:
    model, target = tiny_vit(depth=2), TargetDevice.parse(text)
    shop = LayerParts(model, target, 3)
    plan = shop.plan("model")
    assert plan.calibration == CALIBRATION
    for graph, attentions in (
        (part_graphs(shop.parts, plan)("feed"), 0),
        (whole_graph(model, TokenSchedule((9, 5)), target), 2),
    ):
        if isinstance(graph, bytes):
            assert b"DequantizeLinear" in graph and b"LayerNormalization" in graph
            nodes = onnx.load_from_string(graph).graph.node
            narrow = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
            products = [set(node.input) for node in nodes if node.op_type == "MatMul"]
            # As in shipped files, attention's products of two activations stay in float.
            assert {len(product & narrow) for product in products} <= {0, 2}
            assert sum(not product & narrow for product in products) == 2 * attentions
        else:
            assert "FakeQuantize" in {node.get_type_name() for node in graph.get_ops()}


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


@pytest.mark.slow
@pytest.mark.parametrize("text", ["openvino:cpu", "onnxruntime:cpu"])
def test_parts_of_a_grid_are_converted_once_for_every_length(text: str) -> None:
    target = TargetDevice.parse(f"{text}:threads=1")
    model = wrap(zoo.build("vitaev2"))
    clock = runtime_of(target.runtime).part_clocks(graphs(model, f"{text}:threads=1"), target)
    rng = np.random.default_rng(0)
    for count in (model.tokens, 7):
        tokens = rng.standard_normal((1, count, 24), dtype=np.float32)
        assert clock("feed", [tokens], None)() > 0 and clock("head", [tokens], None)() > 0


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("vit_tiny_patch16_224", {"norm_layer": timm.layers.RmsNorm}, "torch cannot write AttendPart as an ONNX graph"),
        pytest.param(
            *("vit_small_patch16_rope_mixed_224", {}, "onnxruntime cannot run what torch wrote of the model as ONNX"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_has_no_onnx_graph_is_refused_in_a_sentence(
    kind: str, options: dict[str, Any], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, target = shaken(kind, **options), TargetDevice.parse("onnxruntime:cpu:threads=1")
    shop = LayerParts(model, target, 2)
    plan = shop.plan("model")
    made = part_graphs(shop.parts, plan)
    with pytest.raises(ExportError, match=reason) as refused:
        for cell in plan.cells:
            made(cell.part)
        whole_graph(model, TokenSchedule((17, 9, 5)), target)
    assert "choose target openvino or torch" in str(refused.value) and "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")  # torch and onnxruntime both print what they raise
