from __future__ import annotations

from collections import Counter
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError, TargetError
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tavt_kit.runtimes import by_layer, node_times
from tavt_kit.runtimes.by_layer import LayerTimes, layer_times, refuse_unprofiled
from tavt_kit.runtimes.graph_parts import Node, place
from tavt_kit.runtimes.node_times import NodeTimes
from tavt_kit.runtimes.on_openvino import compile_for, convert_module
from tavt_kit.runtimes.onnx_graph import module_to_onnx
from tests.contracts.zoo import ZOO
from tests.runtimes.models import images, tiny_vit

RUNTIMES = ("torch:cpu:threads=1", "openvino:cpu:threads=1", "onnxruntime:cpu:threads=1")


def chain(*texts: str) -> list[Node]:
    """Nodes that each read the one before; a name without letters of a module names nothing."""
    return [Node(f"n{place}", text, (f"n{place - 1}",) if place else ("images",)) for place, text in enumerate(texts)]


def parts(nodes: list[Node]) -> list[str]:
    return [one.part for one in place(nodes).values()]


def test_a_node_that_names_no_layer_belongs_to_what_it_reads_from() -> None:
    nodes = chain(
        "Reorder",
        "__module.adaptive.patch_embed.proj/aten::_convolution/Convolution",
        "aten::add/Add",
        "__module.adaptive.blocks.0.norm1/aten::layer_norm/MVN",
        "aten::matmul/MatMul",
        "__module.adaptive.blocks.0.mlp.fc2/aten::linear/Add",
        "__module.adaptive.blocks.10.norm1/aten::layer_norm/MVN",
        "aten::softmax/Softmax",
        "__module.adaptive.norm/aten::layer_norm/MVN",
        "aten::select/Gather",
    )
    assert parts(nodes) == ["other", "stem", "stem", "0", "0", "0", "10", "10", "head", "head"]
    assert [one.by_name for one in place(nodes).values()][3:6] == [True, False, True]


def test_of_two_inputs_the_later_part_counts() -> None:
    nodes = chain("/layer.2/MatMul", "/layer.11/norm1/LayerNormalization")
    assert parts([*nodes, Node("sum", "Add", ("n1", "n0"))])[-1] == "11"


def test_what_was_fused_across_a_border_is_no_layers() -> None:
    fused = "aten::add/Add,__module.adaptive.blocks.0.ls2/Multiply,__module.adaptive.blocks.1.norm1/MVN"
    nodes = chain("__module.adaptive.blocks.0.norm1/MVN", fused, "__module.adaptive.blocks.1.mlp/MatMul")
    assert parts(nodes) == ["0", "other", "1"]


def test_weights_name_the_node_that_reads_them_unless_others_do_too() -> None:
    def graph(*, shared: bool) -> list[Node]:
        scale = ("one", "one") if shared else ("one", "two")
        return [
            Node("one", "adaptive.blocks.0.norm1.weight", constant=True),
            Node("two", "adaptive.blocks.1.norm1.weight", constant=True),
            Node("q", "q_adaptive.blocks.1.mlp.fc1.weight_1", constant=True),
            Node("dq", "DequantizeLinear_3", ("q",)),
            Node("a", "/norm1/LayerNormalization", ("images", scale[0])),
            Node("b", "/norm1_1/LayerNormalization", ("a", scale[1])),
            Node("c", "MatMul", ("b", "dq")),
        ]

    placed = place(graph(shared=False))
    assert [placed[name].part for name in "abc"] == ["0", "1", "1"]
    placed = place(graph(shared=True))
    assert [placed[name].part for name in "abc"] == ["other", "other", "1"]


def test_parts_by_the_scopes_of_the_tracing_exporter() -> None:
    nodes = chain("/stem/Add", "/layer.3/attn/qkv/MatMul_quant", "/layer.3/Add/fused Gemm", "/head/head/Gemm")
    assert parts(nodes) == ["stem", "3", "3", "head"]


def test_of_several_lists_of_layers_the_last_one_counts() -> None:
    nodes = chain(
        "__module.adaptive.layers.0.NC.0.mlp/Add",
        "__module.adaptive.layers.2.RC.conv/Add",
        "__module.adaptive.layers.2.NC.4.norm1/MVN",
    )
    assert parts(nodes) == ["stem", "stem", "4"]


def test_a_pyramid_beside_the_layers_is_of_the_head() -> None:
    nodes = [
        *chain("__module.adaptive.backbone.blocks.0.norm1/MVN", "__module.adaptive.backbone.blocks.1.norm1/MVN"),
        Node("up", "__module.adaptive.pyramid.up.0/Add", ("n0",)),
    ]
    assert parts(nodes) == ["0", "1", "head"]


def profiled(nodes: list[Node], **ms: float) -> NodeTimes:
    return NodeTimes(nodes, ms, 1.5 * sum(ms.values()), 7)


def test_the_parts_add_up_to_all_that_was_profiled() -> None:
    nodes = chain("/stem/Conv", "/layer.0/MatMul", "Softmax", "/layer.1/MatMul", "/head/Gemm")
    found = by_layer._of_nodes(profiled(nodes, n0=1.0, n1=2.0, n2=0.5, n3=4.0, n4=0.25, unknown=8.0), schedule(2))
    assert found.parts == {"stem": 1.0, "0": 2.5, "1": 4.0, "head": 0.25, "other": 8.0}
    assert (found.sum_ms, found.placed_ms, found.runs) == (15.75, 0.5, 7)
    assert found.as_record()["parts_ms"]["0"] == 2.5 and found.as_record()["sum_ms"] == 15.75


def test_a_graph_that_names_too_few_layers_is_refused() -> None:
    nodes = chain("/stem/Conv", "/layer.0/MatMul", "/head/Gemm")
    with pytest.raises(MeasurementError, match="names 1 layers, but the model runs 2"):
        by_layer._of_nodes(profiled(nodes, n0=1.0), schedule(2))
    skipped = by_layer._of_nodes(profiled(nodes, n1=1.0), TokenSchedule((9, 9), executed=(0,)))
    assert skipped.parts["1"] == 0.0


def schedule(layers: int) -> TokenSchedule:
    return TokenSchedule((9,) * layers)


class MeanCounters:
    """A compiled model of OpenVINO with one node, whose counter is the mean over all runs; the first one is slow."""

    def __init__(self) -> None:
        self.took: list[int] = []

    def create_infer_request(self) -> MeanCounters:
        return self

    def get_runtime_model(self) -> MeanCounters:
        return self

    def get_ordered_ops(self) -> list[object]:
        return []

    def infer(self) -> None:
        self.took.append(10 if self.took else 5000)

    @property
    def profiling_info(self) -> list[SimpleNamespace]:
        mean = timedelta(microseconds=sum(self.took) // len(self.took))
        return [SimpleNamespace(node_name="a", real_time=mean)]


def test_runs_that_warm_up_are_taken_out_of_the_means_of_openvino() -> None:
    found = node_times._counted(MeanCounters(), MeanCounters.infer)
    assert found.ms["a"] == pytest.approx(0.010, abs=0.0015)  # of 5 ms in the first run nothing is left
    assert found.runs >= 5


def test_nodes_of_one_name_are_added_up_in_every_run() -> None:
    runs = node_times._WARM + 5
    found = node_times._medians({"once": [9.0] * 3 + [1.0] * 5, "twice": [1.0, 2.0] * runs}, 5)
    assert found == {"once": 1.0, "twice": 3.0}


@pytest.mark.parametrize("text", ["torch:cpu:mode=compile", "openvino:cpu:hint=throughput", "onnxruntime:cuda"])
def test_targets_without_a_profile_are_refused(text: str) -> None:
    with pytest.raises(TargetError, match="without `layers`"):
        refuse_unprofiled(TargetDevice.parse(text))


def test_the_parts_one_after_another_are_the_lean_path() -> None:
    model = tiny_vit()
    model.schedule = TokenSchedule((17, 9, 5))
    shown = torch.from_numpy(images(2))
    with torch.inference_mode():
        given = dict(model.lean_parts(shown))
        assert list(given) == ["stem", "0", "1", "2", "head"]
        assert torch.equal(given["head"], model.forward_lean(shown))


def with_a_large_layer(model: AdaptiveViT, layer: int) -> AdaptiveViT:
    """Its MLP forty times wider, so that no noise can hide it."""
    mlp = model.bare.blocks[layer].mlp
    mlp.fc1, mlp.fc2 = nn.Linear(64, 10240), nn.Linear(10240, 64)
    return wrap(model.bare)


@pytest.mark.parametrize(
    "text",
    [
        *RUNTIMES[:2],
        pytest.param(RUNTIMES[2], marks=pytest.mark.slow),
        pytest.param("torch:cuda", marks=pytest.mark.gpu),
    ],
)
def test_every_part_is_there_and_the_runs_are_counted(text: str) -> None:
    found = measured(tiny_vit(), TokenSchedule((17, 9, 9)), text)
    assert list(found.parts) == ["stem", "0", "1", "2", "head", "other"]
    assert found.runs >= 5 and 0 < found.sum_ms


@pytest.mark.slow
@pytest.mark.parametrize("text", [*RUNTIMES, pytest.param("torch:cuda", marks=pytest.mark.gpu)])
def test_a_far_larger_layer_takes_the_most(text: str) -> None:
    found = measured(with_a_large_layer(tiny_vit(), 1), TokenSchedule((17, 9, 9)), text)
    assert found.parts["1"] > sum(ms for name, ms in found.parts.items() if name != "1")


def measured(model: AdaptiveViT, counts: TokenSchedule, text: str) -> LayerTimes:
    target, shape = TargetDevice.parse(text), (2, 3, *model.backbone.image_size)
    shown = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    lean = LeanViT(model, counts, selection="topk" if target.runtime == "onnxruntime" else "argsort").eval()
    source: LeanViT | bytes = lean
    if target.runtime == "onnxruntime":
        source = module_to_onnx(lean, [shown], ["images"], {"images": {0: "batch"}})
    return layer_times(source, target, shown[:1].numpy(), counts)


def test_layers_of_equal_weights_are_told_apart_in_an_onnx_graph() -> None:
    """The exporter keeps one of equal weights, under the first one's name; fresh models have many."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 2, "depth": 3}
    fresh = wrap(timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes).eval())
    found = measured(fresh, fresh.dense_schedule, "onnxruntime:cpu:threads=1")
    assert all(found.parts[str(layer)] > 0 for layer in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "post_norm", "vitae", "ffvt"])
def test_every_product_of_a_layer_is_counted_with_it(kind: str) -> None:
    """Whatever a layer begins with, and though nothing calls the layer itself."""
    model = wrap(ZOO[kind]().eval())
    counts = TokenSchedule(tuple(model.tokens - 3 * layer for layer in range(model.layers - 1)) + (model.prefix + 2,))
    if not all(model.backbone.droppable):
        counts = model.dense_schedule
    shape = (2, 3, *model.backbone.image_size)
    graph = convert_module(LeanViT(model, counts).eval(), (torch.rand(shape),), [(-1, *shape[1:])])
    nodes = node_times._openvino_graph(compile_for(graph, TargetDevice.parse(RUNTIMES[1])))
    placed = place(nodes)
    products = Counter(placed[one.name].part for one in nodes if not one.constant and "aten::linear" in one.text)
    assert [products[str(layer)] for layer in range(3)] == [4, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("text", RUNTIMES)
def test_a_drop_shortens_the_later_layers_alone(text: str) -> None:
    arguments = {"img_size": 224, "depth": 4}
    model = wrap(timm.create_model("vit_tiny_patch16_224", num_classes=5, **arguments).eval())
    dense = measured(model, model.dense_schedule, text)
    dropped = measured(model, TokenSchedule((197, 20, 20, 20)), text)
    assert dropped.parts["0"] > 0.5 * dense.parts["0"]
    assert dropped.parts["2"] < 0.4 * dense.parts["2"] and dropped.parts["1"] < dense.parts["1"]
