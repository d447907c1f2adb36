"""An .onnx file's metadata, and weights beside it: where one file would be too large, or where several share them.

ONNX lets a tensor's bytes lie in another file of the same folder (onnx.proto: external_data with location, offset and
length). The kit's weight files are named after their content (``model.f32-1a2b3c4d.weights``), so none is ever changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from tavt_kit.core.artifact_card import METADATA_KEY, WEIGHTS_SUFFIX, ArtifactCard

LARGEST = 2**31 - 2**24  # bytes of a protobuf file, less what the graph itself takes
_LEAST = 1024  # bytes of a tensor that is worth a place of its own
_PAGE = 4096  # onnx.proto: offsets should be whole pages, so that the file can be mapped


def attach_card(model: onnx.ModelProto, card: ArtifactCard) -> None:
    """Put the card into the model's metadata, in place of any other."""
    others = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: card.as_text()})


def finish(path: Path, card: ArtifactCard) -> None:
    """Put the card into a file just exported; weights that an exporter put elsewhere are gathered again."""
    strewn = {file for file in path.parent.iterdir() if file != path}
    model = onnx.load(str(path))
    strewn &= {path.parent / name for name in _locations(path)}
    save(model, card, path)
    for file in strewn:
        file.unlink(missing_ok=True)
    onnx.checker.check_model(str(path))


def save(model: onnx.ModelProto, card: ArtifactCard, path: Path, weights: WeightFile | None = None) -> None:
    """Write a model with its card; its weights go beside it where a file is given or one would be too large.

    Args:
        model: With all of its weights in memory; they are taken out of it where they go elsewhere.
        card: Its metadata.
        path: The file.
        weights: Already written into the same folder; what the model shares with it is not written again.
    """
    if weights is None and _bytes(model) > LARGEST:
        weights = WeightFile.of(model, path.parent, path.stem)
    if weights is not None and weights.lend(model):
        card = replace(card, weights_file=weights.name)
    attach_card(model, card)
    onnx.save(model, str(path))


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Tensors in a file, each content once.

    Args:
        name: Of the file; every graph that borrows from it lies in the same folder.
        places: SHA-256 of a tensor's bytes to its offset and length.
    """

    name: str
    places: Mapping[bytes, tuple[int, int]] = field(repr=False)

    @classmethod
    def of(cls, model: onnx.ModelProto, folder: Path, stem: str) -> WeightFile:
        """Write a model's tensors to ``folder/STEM-HASH.weights``; the model stays as it is."""
        places: dict[bytes, tuple[int, int]] = {}
        whole, temporary = hashlib.sha256(), folder / f".{stem}{WEIGHTS_SUFFIX}"
        with temporary.open("wb") as file:
            for tensor in _large(model):
                key = hashlib.sha256(tensor.raw_data).digest()
                if key not in places:
                    gap = bytes(-file.tell() % _PAGE)
                    places[key] = (file.tell() + len(gap), len(tensor.raw_data))
                    for part in (gap, tensor.raw_data):
                        file.write(part)
                        whole.update(part)
        path = folder / f"{stem}-{whole.hexdigest()[:8]}{WEIGHTS_SUFFIX}"
        temporary.replace(path)
        return cls(path.name, places)

    def lend(self, model: onnx.ModelProto) -> int:
        """Point the model's tensors into the file and take them out of the model; how many were found there."""
        found = 0
        for tensor in _large(model):
            place = self.places.get(hashlib.sha256(tensor.raw_data).digest())
            if place is None:
                continue
            found += 1
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in zip(("location", "offset", "length"), (self.name, *place), strict=True):
                tensor.external_data.add(key=key, value=str(value))
        return found


def _large(model: onnx.ModelProto) -> list[Any]:
    return [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= _LEAST]


def _bytes(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _locations(path: Path) -> set[str]:
    """The files that a graph's tensors lie in."""
    model = onnx.load(str(path), load_external_data=False)
    return {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
