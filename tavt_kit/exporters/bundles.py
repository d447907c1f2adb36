"""Bundles: exported files in the folder that a server or a browser loads as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tavt_kit.core.artifact_card import METADATA_KEY, ArtifactCard, files_of, read_metadata, seal
from tavt_kit.core.records import atomic_text
from tavt_kit.errors import ExportError, MissingDependency

FORMATS = {"onnx-web": ("onnx",), "ovms": ("openvino",), "triton": ("onnx", "openvino")}
"""Bundles, each with the formats that it holds, the first of which is written unless told."""

WEB_RUNTIME = "1.30.0"
"""The version of onnxruntime-web that bundles are tested with."""
WEB_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")

_MOST_AT_ONCE = 16
_TEMPLATES = files("tavt_kit.exporters") / "templates"


def require_web_runtime(folder: Path | None) -> None:
    """Refuse before any work what cannot become a page.

    Raises:
        ExportError: ``folder`` lacks a file of onnxruntime-web.
        MissingDependency: No folder is given, and npm is not there to fetch it.
    """
    if folder is None and shutil.which("npm") is None:
        raise MissingDependency(
            f"a page needs onnxruntime-web {WEB_RUNTIME}, which npm fetches, but npm is not installed; install it, or "
            f"give `web_runtime`, a folder that holds {', '.join(WEB_FILES)}"
        )
    if folder is not None and (absent := [name for name in WEB_FILES if not (folder / name).is_file()]):
        raise ExportError(f"`web_runtime` is a folder with {', '.join(WEB_FILES)}; {folder} lacks {', '.join(absent)}")


def write_bundle(kind: str, models: Sequence[Path], out: Path, web_runtime: Path | None = None) -> tuple[Path, str]:
    """Write ``out/KIND`` anew.

    Args:
        models: Exported ``.onnx`` and ``.xml`` files that passed their check; of formats of this kind.
        web_runtime: A folder that holds ``WEB_FILES``; without one npm fetches them.

    Returns:
        The folder, and a sentence that says how it is served.

    Raises:
        ExportError: A page of more than one file, or npm cannot fetch what it needs.
    """
    folder = out / kind
    with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=out) as temporary:
        made = Path(temporary) / kind
        made.mkdir()
        if kind == "onnx-web":
            said = _write_page(models, made, web_runtime)
        else:
            said = (_write_ovms if kind == "ovms" else _write_triton)(_frozen(models, Path(temporary)), made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder, f"{folder}: {said.format(folder=folder)}"


_Model = tuple[str, Path, ArtifactCard]


def _frozen(models: Sequence[Path], temporary: Path) -> list[_Model]:
    """Each file with a name; of a switchable one a file for each preset, whose counts are no batch of anything."""
    named: list[_Model] = []
    for path in models:
        card, name = read_metadata(path), path.name.replace(".", "-")
        if not card.is_switchable:
            named.append((name, path, card))
        for preset, schedule in card.presets.items():
            folder = temporary / f"{name}-{preset}"
            folder.mkdir()
            frozen = replace(card, schedule=schedule, presets={})
            (_freeze_onnx if path.suffix == ".onnx" else _freeze_openvino)(path, frozen, folder)
            named.append((folder.name, folder / path.name, frozen))
    return named


def _freeze_onnx(path: Path, card: ArtifactCard, folder: Path) -> None:
    import onnx

    from tavt_kit.exporters.to_onnx import save
    from tavt_kit.runtimes.session import LENGTHS

    model = onnx.load(str(path), load_external_data=False)
    kept = [entry for entry in model.graph.input if entry.name != LENGTHS]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(card.schedule.counts), LENGTHS))
    for file in files_of(path)[:-1]:
        shutil.copyfile(file, folder / file.name)
    save(model, card, folder / path.name)


def _freeze_openvino(path: Path, card: ArtifactCard, folder: Path) -> None:
    import openvino

    from tavt_kit.runtimes.on_openvino import openvino_core

    model: Any = openvino_core().read_model(path)
    lengths = model.get_parameters()[1]
    constant = openvino.opset13.constant(np.asarray(card.schedule.counts))
    for reader in list(lengths.output(0).get_target_inputs()):
        reader.replace_source_output(constant.output(0))
    model.remove_parameter(lengths)
    model.set_rt_info(card.as_text(), METADATA_KEY)
    openvino.save_model(model, folder / path.name, compress_to_fp16=False)
    seal(folder / path.name)


def _copy(path: Path, version: Path) -> None:
    """A model's files into a version's folder; a weight file keeps the name that the graph knows it by."""
    version.mkdir(parents=True)
    for file in files_of(path):
        shutil.copyfile(file, version / (f"model{file.suffix}" if file.suffix != ".weights" else file.name))


def _write_ovms(models: Sequence[_Model], folder: Path) -> str:
    entries = []
    for name, path, card in models:
        _copy(path, folder / name / "1")
        # Else OpenVINO computes in bf16 where the CPU has it, which is not what was checked.
        hint = {"INFERENCE_PRECISION_HINT": card.own_target(path).precision}
        entries.append({"config": {"name": name, "base_path": f"/models/{name}", "plugin_config": hint}})
    atomic_text(folder / "config.json", json.dumps({"model_config_list": entries}, indent=2) + "\n")
    return (
        "for OpenVINO Model Server, laid out as its documents say and untried, for no package of the server installs: "
        "docker run -v {folder}:/models -p 9000:9000 openvino/model_server --config_path /models/config.json "
        "--port 9000"
    )


def _write_triton(models: Sequence[_Model], folder: Path) -> str:
    from jinja2 import Environment, StrictUndefined

    text = (_TEMPLATES / "config.pbtxt").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)
    for name, path, card in models:
        _copy(path, folder / name / "1")
        output = "TYPE_FP16" if path.suffix == ".onnx" and card.precision == "f16" else "TYPE_FP32"
        kind, dims = output, [3, *card.image_size]
        if card.pixels is not None:
            kind, dims = "TYPE_UINT8", [3, -1, -1] if card.pixels.startswith("nchw") else [-1, -1, 3]
        backend, most, batch = "onnxruntime", _MOST_AT_ONCE, []
        if path.suffix == ".xml":  # Triton's OpenVINO backend takes its largest batch alone, or any where it has none
            backend, most, batch = "openvino", 0, [-1]
        filled = template.render(
            name=json.dumps(name), backend=backend, file=f"model{path.suffix}", kind=kind, dims=[*batch, *dims],
            output=output, scores=[*batch, len(card.classes)], most=most,
        )  # fmt: skip
        atomic_text(folder / name / "config.pbtxt", filled)
        atomic_text(folder / name / "labels.txt", "".join(f"{' '.join(label.split())}\n" for label in card.classes))
    return (
        "for Triton, whose own backends for these files are untried, for no package of the server holds them: "
        "tritonserver --model-repository={folder}"
    )


def _write_page(models: Sequence[Path], folder: Path, web_runtime: Path | None) -> str:
    if len(models) != 1:
        raise ExportError(f"a page shows one file, got {len(models)}; give one `schedule` and one `precision`")
    path, card = models[0], read_metadata(models[0])
    for file in files_of(path)[:-1]:
        shutil.copyfile(file, folder / file.name)
    for name in ("index.html", "page.js"):
        atomic_text(folder / name, (_TEMPLATES / name).read_text(encoding="utf-8"))
    facts = {
        "name": card.model.name,
        "classes": card.classes,
        "schedule": str(card.schedule),
        "presets": {name: list(schedule.counts) for name, schedule in card.presets.items()},
        "pixels": card.pixels,
        **{name: card.preprocessing[name] for name in ("image_size", "crop_pct", "crop_mode")},
        "patches": card.tokens - card.prefix,
        **_show_kept(path, folder, card),
    }
    atomic_text(folder / "model.json", json.dumps(facts, indent=2) + "\n")
    _copy_web_runtime(folder / "ort", web_runtime)
    return "a page for any browser, without a network: python -m http.server -d {folder}"


def _show_kept(path: Path, folder: Path, card: ArtifactCard) -> dict[str, Any]:
    """Write ``model.onnx`` whose outputs tell which patches stay, too.

    Returns:
        Their names under ``kept``, none where the graph has no map; under ``unread`` whether a drop of the schedule's
        last layer is in no graph, because a head that reads the class token alone reads nothing after it.
    """
    import onnx
    from onnx import TensorProto, helper

    from tavt_kit.checks.claims import choice_of, largest_choices
    from tavt_kit.exporters.to_onnx import save

    model = onnx.load(str(path), load_external_data=False)
    choice, kept = choice_of(path, card), [node.output[1] for node in largest_choices(model)]
    counts = [count for layer, count in enumerate(card.schedule.counts) if card.schedule.runs(layer)]
    drops = [after < before for before, after in zip([card.tokens, *counts], counts, strict=False)]
    # A family may choose for other reasons too, and merged tokens are of several patches.
    has_map = choice is not None and card.model.reduction == "drop"
    unread = has_map and drops[-1] and len(kept) == sum(drops) - 1
    if not (unread or (has_map and len(kept) == sum(drops))):
        kept = []
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in kept)
    save(model, card, folder / "model.onnx")
    return {"kept": kept, "unread": unread}


def _copy_web_runtime(folder: Path, given: Path | None) -> None:
    folder.mkdir()
    if given is not None:
        for name in WEB_FILES:
            shutil.copyfile(given / name, folder / name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        command = ["npm", "pack", f"onnxruntime-web@{WEB_RUNTIME}", "--ignore-scripts", "--silent"]

        def failed(why: object) -> ExportError:
            return ExportError(
                f"npm cannot fetch onnxruntime-web {WEB_RUNTIME} ({why}); try again with a network, or give "
                f"`web_runtime`, a folder that holds {', '.join(WEB_FILES)}"
            )

        try:
            done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise failed(error) from None
        packed = next(Path(temporary).glob("*.tgz"), None)
        if done.returncode or packed is None:
            raise failed((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        with tarfile.open(packed) as archive:
            for name in (*(f"dist/{file}" for file in WEB_FILES), "package.json", "LICENSE"):
                with suppress(KeyError):  # a package may lack its licence's text; package.json names it
                    member = archive.extractfile(f"package/{name}")
                    assert member is not None
                    (folder / Path(name).name).write_bytes(member.read())
    require_web_runtime(folder)
