"""Folders of Vision Transformers that ``save_pretrained`` of Hugging Face's transformers wrote (names of 5.23).

They are read without transformers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tavt_kit.checkpoints.folder import read_weight_file
from tavt_kit.checkpoints.official_vit import ConvertOptions, Official, renamed, shape_of, vit_names
from tavt_kit.core.codec import Record, decode
from tavt_kit.core.records import read_json
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, RecordError

_FILES = ("model.safetensors", "pytorch_model.bin")
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers."""

_NAMES = {"vit": "vit_base_patch16_224", "deit": "deit_base_distilled_patch16_224", "dinov2": "vit_base_patch14_dinov2"}
_VIT = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.qkv": tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    "attn.proj": ("attention.output.dense",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
_DINO = {**_VIT, "norm1": ("norm1",), "norm2": ("norm2",), "mlp.fc1": ("mlp.fc1",), "mlp.fc2": ("mlp.fc2",)}


_MOST = 256  # layers
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Config(Record):
    """What is read of a ``config.json``."""

    image_size: int
    patch_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int | None = None
    mlp_ratio: float | None = None
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    id2label: Mapping[str, Any] | None = None
    BESIDE: ClassVar[None] = None

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in self.__dataclass_fields__ if "size" in name or "num_" in name}
        if small := [name for name, size in sizes.items() if size is not None and size < 1]:
            raise CheckpointError(f"{small[0]} must be above 0, but is {sizes[small[0]]}")
        if self.num_hidden_layers > _MOST:
            raise CheckpointError(f"num_hidden_layers must be at most {_MOST}, but is {self.num_hidden_layers}")


@dataclass(frozen=True)
class _Preprocessor(Record):
    """What is read of a ``preprocessor_config.json``; what is null is as if it were not there."""

    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    do_normalize: bool | None = True
    do_rescale: bool | None = True
    rescale_factor: float | None = None
    resample: int | None = None
    size: Mapping[str, int | None] | int | None = None
    do_center_crop: bool | None = None
    crop_size: Mapping[str, int | None] | int | None = None
    BESIDE: ClassVar[None] = None


def _decoded(kind: type[_T], file: Path, content: Mapping[str, Any]) -> _T:
    try:
        return decode(kind, content, str(file))
    except RecordError as error:
        raise CheckpointError(str(error)) from None


def read_folder(path: Path, options: ConvertOptions) -> tuple[Official, tuple[str, ...] | None]:
    """The model of a folder, and the names of its classes where the config has them."""
    config = _read_object(path / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _NAMES:
        raise CheckpointError(f"{path} is a {kind or 'nameless'} model, but vit, deit and dinov2 folders can be read")
    if config.get("use_swiglu_ffn") or config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{path} has a gated or {config.get('hidden_act')} feed-forward half, which is not read")
    sizes = _decoded(_Config, path / "config.json", config)
    if options.image_size not in (None, sizes.image_size):
        raise CheckpointError(
            f"{path} is converted at its own {sizes.image_size} px, got {options.image_size}; the verbs that take "
            "the run resize it by `image_size`"
        )
    file = next((path / name for name in _FILES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} holds no {' or '.join(_FILES)}; files in several shards are not read")
    tensors = {name.removeprefix(f"{kind}."): tensor for name, tensor in read_weight_file(file).tensors.items()}
    names = hugging_face_names(kind, sizes.num_hidden_layers, tensors)
    known = {theirs for parts in names.values() for theirs in parts}
    # The token for masked pre-training, the pooler, and DINOv2's classifier, which reads two vectors.
    unused = ("embeddings.mask_token", "pooler.", *(("classifier.",) if kind == "dinov2" else ()))
    left_out = [name for name in tensors if name not in known and name.startswith(unused)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    state = renamed(tensors, names, f"a Hugging Face {kind} ({path})")
    untrained: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    if "head.weight" in state:
        (count,) = shape_of(state, "head.bias", 1)
        said = sizes.id2label or {}
        labels = tuple(str(said.get(str(index), "")) for index in range(count))
        if not all(labels) or len(set(labels)) < count:
            labels = None
    elif options.classes is None:
        raise CheckpointError(f"{path} has no classifier for a token; give `data`, for whose classes a new one is made")
    else:
        count, untrained = len(options.classes), ("head.",)
    size, width = sizes.image_size, sizes.hidden_size
    wider = sizes.mlp_ratio if kind == "dinov2" else (sizes.intermediate_size or 0) / width
    if not wider:
        raise CheckpointError(f"{path / 'config.json'} does not say how wide the feed-forward halves are; complete it")
    arguments: dict[str, Any] = {
        "num_classes": count,
        "img_size": [size, size],
        "patch_size": sizes.patch_size,
        "embed_dim": width,
        "depth": sizes.num_hidden_layers,
        "num_heads": sizes.num_attention_heads,
        "mlp_ratio": wider,
        "qkv_bias": sizes.qkv_bias,
        "norm_eps": float(sizes.layer_norm_eps),
    }
    preprocessing = _preprocessing(path / "preprocessor_config.json", size)
    name = _NAMES[kind]
    if kind == "deit" and "head_dist.weight" not in state:
        # One head on the class token: in timm a ViT whose distillation token is a register.
        state["reg_token"], arguments["reg_tokens"], name = state.pop("dist_token"), 1, _NAMES["vit"]
    return Official(kind, name, arguments, state, f"a Hugging Face {kind}", preprocessing, untrained, left_out), labels


def hugging_face_names(kind: str, layers: int, known: Collection[str]) -> dict[str, tuple[str, ...]]:
    """timm's name -> those of the file, which has the ``known`` ones, whose tensors, one below the other, it holds."""
    tables = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    modules = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    if kind == "deit":
        tables["dist_token"] = "embeddings.distillation_token"
    if kind == "dinov2":
        for layer in range(layers):
            tables |= {f"blocks.{layer}.ls{n}.gamma": f"encoder.layer.{layer}.layer_scale{n}.lambda1" for n in (1, 2)}
    elif "cls_classifier.weight" in known:
        modules |= {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    else:
        modules["head"] = "classifier"
    names = vit_names(layers, tables, modules, "encoder.layer.{}.", _DINO if kind == "dinov2" else _VIT)
    biased = "encoder.layer.0.attention.attention.query.bias" in known
    return {ours: theirs for ours, theirs in names.items() if biased or not ours.endswith("qkv.bias")}


def _preprocessing(file: Path, size: int) -> Preprocessing:
    """What the preprocessor's config says, at the model's own size; without one, transformers' defaults for ViTs."""
    given = _decoded(_Preprocessor, file, _read_object(file) if file.is_file() else {})
    mean, std = given.image_mean or (0.5, 0.5, 0.5), given.image_std or (0.5, 0.5, 0.5)
    if not given.do_normalize:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # Its numbers before the mean is taken away are bytes times this factor, ours bytes / 255.
    scale = 1 / 255 if given.rescale_factor is None else given.rescale_factor
    factor = 255.0 * float(scale) if given.do_rescale else 255.0
    if not 0 < factor < math.inf:
        raise CheckpointError(f"{file} must multiply pixels by a number above 0, got {scale!r}")
    mean, std = ((red / factor, green / factor, blue / factor) for red, green, blue in (mean, std))
    filtered = _RESAMPLING.get(2 if given.resample is None else given.resample, "bilinear")
    edge = given.size.get("shortest_edge") if isinstance(given.size, Mapping) else given.size
    if given.do_center_crop and edge:
        cropped = size if given.crop_size is None else given.crop_size
        height = cropped.get("height") if isinstance(cropped, Mapping) else cropped
        if not height:
            raise CheckpointError(f"{file} cuts out the centre, but does not say how much; add the height of crop_size")
        return Preprocessing((size, size), float(height) / float(edge), "center", filtered, mean, std)
    return Preprocessing((size, size), 1.0, "squash", filtered, mean, std)


def _read_object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object, but holds a {type(content).__name__}")
    return content
