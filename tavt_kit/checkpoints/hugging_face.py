"""Folders of Hugging Face's ViT, DeiT and DINOv2 (config, preprocessor config, weights), read without transformers.

Source of the names: the files that ``save_pretrained`` of transformers 5.23 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tavt_kit.checkpoints.official import Asked, Official
from tavt_kit.checkpoints.shapes import joined, shape_of
from tavt_kit.checkpoints.weight_file import read_tensors
from tavt_kit.core.parsing import parse_json
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError

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


def is_folder(path: Path) -> bool:
    """Whether it is a folder that ``save_pretrained`` wrote."""
    return path.is_dir() and (path / "config.json").is_file()


def read_folder(path: Path, asked: Asked) -> tuple[Official, tuple[str, ...] | None]:
    """The model of a folder, and the names of its classes where the config has them.

    Raises:
        CheckpointError: It is of another kind, cannot be read, or does not hold together.
    """
    config = _read_json(path / "config.json")
    kind = config.get("model_type")
    if kind not in _NAMES:
        raise CheckpointError(f"{path} is a {kind or 'nameless'} model, but vit, deit and dinov2 folders can be read")
    if config.get("use_swiglu_ffn") or config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{path} has a gated or {config.get('hidden_act')} feed-forward half, which is not read")
    if asked.image_size not in (None, config["image_size"]):
        raise CheckpointError(
            f"{path} is converted at its own {config['image_size']} px, got {asked.image_size}; the verbs that take "
            "the run resize it by `image_size`"
        )
    file = next((path / name for name in _FILES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} holds no {' or '.join(_FILES)}; files in several shards are not read")
    tensors = {name.removeprefix(f"{kind}."): tensor for name, tensor in read_tensors(file).items()}
    names = _our_names(kind, int(config["num_hidden_layers"]), tensors)
    known = {theirs for parts in names.values() for theirs in parts}
    left_out = [name for name in tensors if name not in known and _is_unused(kind, name)]
    missing = sorted(known - set(tensors))
    unexpected = sorted(set(tensors) - known - set(left_out))
    if missing or unexpected:
        raise CheckpointError(
            f"{path} says it is a {kind}, but lacks {', '.join(missing[:4]) or 'nothing'} and adds "
            f"{', '.join(unexpected[:4]) or 'nothing'}; nothing was loaded"
        )
    found = {ours: joined(tensors, theirs) for ours, theirs in names.items()}
    untrained: tuple[str, ...] = ()
    if "head.weight" in found:
        (count,) = shape_of(found, "head.bias", 1)
        labels = _labels(config, count)
    elif asked.classes is None:
        raise CheckpointError(f"{path} has no classifier for a token; give `data`, for whose classes a new one is made")
    else:
        labels, count, untrained = None, len(asked.classes), ("head.",)
    arguments = _arguments(kind, config, count, "head_dist.weight" in found)
    size = int(config["image_size"])
    preprocessing = _preprocessing(path / "preprocessor_config.json", size)
    if kind == "deit" and "head_dist.weight" not in found:
        # One head on the class token: in timm a ViT whose distillation token is a register.
        found["reg_token"] = found.pop("dist_token")
        name = _NAMES["vit"]
    else:
        name = _NAMES[kind]
    return Official(kind, name, arguments, found, f"a Hugging Face {kind}", preprocessing, untrained, left_out), labels


def _our_names(kind: str, layers: int, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """timm's name -> theirs, whose tensors, one below the other, it holds."""
    names: dict[str, tuple[str, ...]] = {
        "cls_token": ("embeddings.cls_token",),
        "pos_embed": ("embeddings.position_embeddings",),
    }
    if kind == "deit":
        names["dist_token"] = ("embeddings.distillation_token",)
    heads = {"head": "classifier"}
    if "cls_classifier.weight" in tensors:
        heads = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    for part in ("weight", "bias"):
        names[f"patch_embed.proj.{part}"] = (f"embeddings.patch_embeddings.projection.{part}",)
        names[f"norm.{part}"] = (f"layernorm.{part}",)
        if kind != "dinov2":
            names |= {f"{ours}.{part}": (f"{theirs}.{part}",) for ours, theirs in heads.items()}
        for layer in range(layers):
            for ours, theirs in (_DINO if kind == "dinov2" else _VIT).items():
                if part == "bias" and ours == "attn.qkv" and f"encoder.layer.0.{theirs[0]}.bias" not in tensors:
                    continue
                names[f"blocks.{layer}.{ours}.{part}"] = tuple(f"encoder.layer.{layer}.{t}.{part}" for t in theirs)
    for layer in range(layers) if kind == "dinov2" else ():
        for scale in (1, 2):
            names[f"blocks.{layer}.ls{scale}.gamma"] = (f"encoder.layer.{layer}.layer_scale{scale}.lambda1",)
    return names


def _is_unused(kind: str, name: str) -> bool:
    """The token for masked pre-training, the pooler, and DINOv2's classifier, which reads two vectors."""
    return name.startswith(("embeddings.mask_token", "pooler.")) or (
        kind == "dinov2" and name.startswith("classifier.")
    )


def _arguments(kind: str, config: Mapping[str, Any], classes: int, two_heads: bool) -> dict[str, Any]:
    width = int(config["hidden_size"])
    ratio = config["mlp_ratio"] if kind == "dinov2" else config["intermediate_size"] / width
    arguments: dict[str, Any] = {
        "num_classes": classes,
        "img_size": [int(config["image_size"])] * 2,
        "patch_size": int(config["patch_size"]),
        "embed_dim": width,
        "depth": int(config["num_hidden_layers"]),
        "num_heads": int(config["num_attention_heads"]),
        "mlp_ratio": ratio,
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
    }
    if kind == "deit" and not two_heads:
        arguments["reg_tokens"] = 1
    return arguments


def _labels(config: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    known = config.get("id2label") or {}
    names = [str(known.get(str(index), "")) for index in range(count)]
    return tuple(names) if all(names) and len(set(names)) == count else None


def _preprocessing(file: Path, size: int) -> Preprocessing:
    """What the preprocessor's config says, at the model's own size; without one, transformers' defaults for ViTs."""
    given = _read_json(file) if file.is_file() else {}
    mean, std = (tuple(given.get(f"image_{name}", (0.5, 0.5, 0.5))) for name in ("mean", "std"))
    filtered = _RESAMPLING.get(int(given.get("resample", 2)), "bilinear")
    resized = given.get("size", {})
    edge = resized.get("shortest_edge") if isinstance(resized, Mapping) else resized
    if given.get("do_center_crop") and edge:
        cropped = given.get("crop_size", size)
        height = cropped["height"] if isinstance(cropped, Mapping) else cropped
        return Preprocessing((size, size), float(height) / float(edge), "center", filtered, mean, std)
    return Preprocessing((size, size), 1.0, "squash", filtered, mean, std)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object, but holds a {type(content).__name__}")
    return content
