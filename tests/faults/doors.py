"""Every door that bytes from outside come in by, with a few small inputs that are right: what fuzzing begins with."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tavt_kit.checkpoints import convert, load_model
from tavt_kit.checkpoints.architecture import check_name
from tavt_kit.checkpoints.folder import read_weight_file
from tavt_kit.checks.claims import stored_precision
from tavt_kit.checks.report import read_check
from tavt_kit.cli import VERBS, UsageError, command_of, usage_sentence
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.artifact_card import (
    ArtifactCard,
    changed_since_check,
    onnx_metadata,
    read_metadata,
    require_unchanged,
    seal,
)
from tavt_kit.core.budget import Budget
from tavt_kit.core.codec import decode
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import ControlGroup, TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.lock import held_folder
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.parsing import csv_text, parse_duration, parse_fraction, parse_json, parse_toml
from tavt_kit.core.records import SCHEMAS, kind_of, read_lines, read_record
from tavt_kit.core.schedule import Curve, TokenSchedule
from tavt_kit.data.folders import load_csv
from tavt_kit.data.images import split_name
from tavt_kit.data.preprocess import Preprocessing, open_image, open_size
from tavt_kit.data.published import FACTS, named_folder, recognise
from tavt_kit.data.splits import read_split
from tavt_kit.distill.options import DataOptions
from tavt_kit.distill.recipes import distill_recipe, train_recipe
from tavt_kit.distill.run_folder import RunFolder, journal, load_state, read_run_record, save_state
from tavt_kit.distill.transforms import _policy
from tavt_kit.errors import TavtError
from tavt_kit.exporters.export import _keep
from tavt_kit.reports import blocks
from tavt_kit.reports.page import build_report, report_body
from tavt_kit.reports.records import gather
from tavt_kit.search.objectives import Objectives
from tavt_kit.search.record import front_frame
from tavt_kit.search.store import Store, stored_bits
from tavt_kit.verbs.searching import show_verb
from tavt_kit.verbs.settings import read_settings, settings_of
from tavt_kit.verbs.streams import shown
from tavt_kit.workflows.check import _recorded_source
from tavt_kit.workflows.compare import compare
from tavt_kit.workflows.fit import _begun, _recorded_answers, _recorded_times
from tavt_kit.workflows.hub import _facts as hub_facts
from tavt_kit.workflows.run_model import read_derived, recommended_of
from tavt_kit.workflows.schedules import best_within, knee_of, listed_schedules, schedule_for
from tests.data import layouts
from tests.golden.golden import FOLDER as GOLDEN
from tests.reports.records import write_fit, write_pruned
from tests.reports.records import write_run as write_reported
from tests.verbs.tiny import write_run

LAYOUT = TokenLayout(17, 4)
FOLDERS = Path(__file__).parents[1] / "checkpoints" / "hugging_face"
Target = Callable[[bytes], Any]
Door = tuple[Target, Callable[[], tuple[bytes, ...]]]
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
CUT = b"\x1e"
"""Between the files of an input that is several."""


def text(read: Callable[[str], Any]) -> Target:
    return lambda raw: read(raw.decode("utf-8", "surrogateescape"))


def record(read: Callable[[Any], Any]) -> Target:
    """Of a reader of JSON values; what is no JSON is refused by the door before it."""

    def target(raw: bytes) -> Any:
        try:
            value = parse_json(raw.decode("utf-8", "replace"))
        except ValueError:
            return None
        return read(value)

    return target


def file(name: str, read: Callable[[Path], Any]) -> Target:
    """Of a reader of files, by a file of this name, which lies in a folder of its own."""

    def target(raw: bytes) -> Any:
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return read(path)

    return target


def files(folder: str, names: tuple[str, ...], read: Callable[[Path], Any]) -> Target:
    """Of a reader of a folder, by files of these names."""

    def target(raw: bytes) -> Any:
        root = FOLDER / folder
        for name, part in zip(names, raw.split(CUT), strict=False):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(part)
        return read(root)

    return target


def of(*values: bytes | str) -> Callable[[], tuple[bytes, ...]]:
    return lambda: tuple(value.encode() if isinstance(value, str) else value for value in values)


def no_value(read: Callable[..., Any], *errors: type[Exception]) -> Callable[..., Any]:
    """A reader whose refusal of what is nothing of its kind is one of these errors, by promise."""

    def reading(given: Any) -> Any:
        try:
            return read(given)
        except errors:
            return None

    return reading


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# Texts ------------------------------------------------------------------------------------------------------


def _steers_nothing(given: str) -> None:
    for said in (shown(given), csv_text(["a"], [[given]])):
        assert "\x1b" not in shown(said)
    assert not csv_text(["a"], [[given]]).removeprefix("a\n").startswith(("=", "+", "-", "@"))


def _settings(given: str) -> Any:
    verb, *rest = given.split("\n")
    return read_settings(verb if verb in _VERBS else "export", rest)


_VERBS = ("fit", "train", "distill", "average", "prune", "search", "export", "check", "bench", "profile", "eval",
          "explain", "convert")  # fmt: skip


def _command_line(given: str) -> Any:
    """Every word of a command line is read; the verb itself is not run."""
    import typer

    verb, *words = given.split(" ")
    name = verb if verb in VERBS else "export"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return command_of(name, VERBS[name]).make_context(name, words)
    except UsageError as error:
        return usage_sentence(error, given.split(" "))
    except (typer.Exit, SystemExit):
        return None


def _config(path: Path) -> Any:
    """A file of settings; its first byte chooses the verb."""
    first = path.read_bytes()[:1]
    name = _VERBS[first[0] % len(_VERBS)] if first else "export"
    path.write_bytes(path.read_bytes()[1:])
    return _command_line(f"{name} --config {path}")


def _data_name(given: str) -> Any:
    named_folder(given)
    return split_name(given)


# Records ----------------------------------------------------------------------------------------------------


@cache
def tiny() -> Path:
    """A run with a model, which records lie beside."""
    return write_run(Path(tempfile.mkdtemp(prefix="fuzz-run-")) / "run")


@cache
def golden() -> Path:
    """Runs of every verb, as version 1 wrote them."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-golden-"))
    with tarfile.open(GOLDEN / "runs-v1" / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@cache
def made() -> Path:
    """Records of every kind that a report reads, as today's verbs write them."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-made-"))
    write_reported(folder / "run")
    (folder / "fit").mkdir()
    write_fit(folder / "fit")
    write_pruned(folder / "pruned")
    return folder


def recorded(*kinds: str, most: int = 30_000) -> Callable[[], tuple[bytes, ...]]:
    """Records of these kinds, the long lists in them cut short; of all kinds by default."""

    def seeds() -> tuple[bytes, ...]:
        found = dict[str, bytes]()
        for path in sorted([*made().rglob("*.json"), *golden().rglob("*.json")]):
            value = json.loads(path.read_text())
            kind = kind_of(value)
            if kind is None or (kinds and kind not in kinds):
                continue
            raw = _json(_shortened(value))
            if len(raw) <= most:
                found.setdefault(f"{kind} {value['version']}", raw)
        return tuple(found.values())

    return seeds


def _shortened(value: Any, most: int = 12) -> Any:
    if isinstance(value, Mapping):  # rounds add up to samples that are cut short
        return {key: _shortened(item, most) for key, item in value.items() if key != "rounds"}
    if isinstance(value, list):
        return [_shortened(item, most) for item in value[:most]]
    return value


def _beside(name: str, read: Callable[[Path], Any]) -> Target:
    """Of a reader of a run's folder, which holds a model and this record."""

    def target(raw: bytes) -> Any:
        folder = FOLDER / "run"
        if not folder.exists():
            shutil.copytree(tiny(), folder)
        (folder / name).write_bytes(raw)
        try:
            return read(folder)
        finally:
            (folder / name).unlink(missing_ok=True)

    return target


def _any_record(raw: bytes) -> Any:
    try:
        kind = kind_of(parse_json(raw.decode("utf-8", "replace")))
    except ValueError:
        kind = None
    path = FOLDER / "any.json"
    path.write_bytes(raw)
    for each in [kind] if kind in SCHEMAS else ["holder"]:
        read_record(path, str(each))


def _report(raw: bytes) -> Any:
    folder = FOLDER / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in raw.split(CUT)[:3]:
        try:
            kind = kind_of(parse_json(part.decode("utf-8", "replace")))
        except ValueError:
            kind = None
        (folder / f"{kind if kind in SCHEMAS else 'front'}.json").write_bytes(part)
    records = gather([folder])
    report = build_report(records)
    body = report_body(records, report.answer, report.title)
    assert "<script>alert" not in blocks.html_page(report, ())
    return json.dumps(body)


def _compared(raw: bytes) -> Any:
    one, other = FOLDER / "one.json", FOLDER / "other.json"
    for path, part in zip((one, other), (raw.split(CUT) * 2)[:2], strict=True):
        path.write_bytes(part)
    return compare(one, other, across=True).to_frame()


def _front(folder: Path) -> Any:
    """All that reads a front."""
    path = folder / "front.json"
    body = read_record(path, "front")
    every: list[Callable[[], Any]] = [
        lambda: front_frame(path), lambda: knee_of(body), lambda: best_within(body, ["flops=3G"]),
        lambda: best_within(body, ["latency=8ms", "top1=10%"]), lambda: best_within(body, ["drop=1", "throughput=1/s"]),
        lambda: listed_schedules(_model(), (), folder), lambda: _shown(folder),
        *(lambda pick=pick: schedule_for(folder, _model(), None, pick) for pick in (None, "knee", "fast", "best", "0")),
    ]  # fmt: skip
    for each in every:
        with contextlib.suppress(TavtError):
            each()


@cache
def _model() -> Any:
    return load_model(tiny())


def _shown(folder: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return show_verb(run=folder, settings=[], as_json=False, config=None)


def _fit(folder: Path) -> Any:
    """All that reads what a fit found."""
    every: list[Callable[[], Any]] = [
        lambda: recommended_of(folder), lambda: recommended_of(folder, pick="dense"),
        lambda: recommended_of(folder, pick="1"), lambda: _shown(folder),
        lambda: hub_facts(folder, "a/b", read_record(folder / "fit.json", "fit")),
        lambda: _recorded_source(folder / "recommended" / "model.xml"),
    ]  # fmt: skip
    for each in every:
        with contextlib.suppress(TavtError):
            each()


def _pushed(folder: Path) -> Any:
    return hub_facts(folder, "a/b", None)


def _exported(raw: bytes) -> Any:
    """What an export finds in its folder: the files and checks of an earlier one."""
    folder = FOLDER / "exported"
    folder.mkdir(exist_ok=True)
    (folder / "model.f32.onnx").write_bytes(b"x")
    for name, part in zip(("exported.json", "check.json"), (raw.split(CUT) * 2)[:2], strict=True):
        (folder / name).write_bytes(part)
    with contextlib.suppress(TavtError):
        _recorded_source(folder / "model.f32.onnx")
    with contextlib.suppress(TavtError):
        changed_since_check(folder / "model.f32.onnx")
    with contextlib.suppress(TavtError):
        read_check(folder / "check.json")
    return _keep(folder, {"model.f32.onnx": {"schedule": "dense"}}, fresh=False)


def _export_seeds() -> tuple[bytes, ...]:
    folder = golden() / "exported"
    parts = [_json(_shortened(json.loads((folder / name).read_text()))) for name in ("exported.json", "check.json")]
    return (CUT.join(parts),)


def _run_record(folder: Path) -> Any:
    known = read_run_record(folder)
    return RunFolder(folder, str(known["verb"]), dict(known["asked"]))


def _journal(path: Path) -> Any:
    with journal(path.parent, 1):
        return None


def _derived(folder: Path) -> Any:
    return read_derived(folder, "prune", {"mlp": 0.5}, made="pruned", fresh=False)


def _table(value: Any) -> Any:
    table = LatencyTable.from_record(value)
    with contextlib.suppress(TavtError):
        table.predict(TokenSchedule((17, 9, 9, 9)))
    return table.mean_error, table.worst_error, table.digest


def _locked(path: Path) -> Any:
    """What another process that holds a folder says of itself."""
    import fcntl

    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with held_folder(path.parent) as folder:
            return folder


def _store_row(value: Any) -> Any:
    """An answer of a search, whatever its columns hold."""
    values = [*value, *[None] * 6][:6] if isinstance(value, list) else [value] * 6
    given = [
        bytes.fromhex(one[2:]) if isinstance(one, str) and _is_hex(one) else json.dumps(one)
        if isinstance(one, list | dict) or (isinstance(one, int) and abs(one) >= 2**63) else one
        for one in values
    ]  # fmt: skip
    given = [one.encode("utf-8", "replace").decode() if isinstance(one, str) else one for one in given]
    path, schedule = FOLDER / "search.db", TokenSchedule((17, 9, 9, 9))
    if not path.exists():
        with Store(path) as store:
            store.bind({"pictures": "x"})
            store.add(schedule, _answer())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous=OFF")
        with contextlib.suppress(sqlite3.IntegrityError):  # of a column that may not be empty
            base.execute("UPDATE evaluations SET accuracy=?, failure=?, bits=?, metrics=?, seconds=?, timings=?", given)
    with contextlib.suppress(TavtError):
        stored_bits(path, [schedule])
    with Store(path) as store:
        return store.get(schedule)


def _is_hex(given: str) -> bool:
    return given.startswith("0x") and len(given) % 2 == 0 and all(one in "0123456789abcdef" for one in given[2:])


def _answer() -> Any:
    from tavt_kit.evaluation.result import EvaluationResult

    right = np.array([True, False, True, True])
    return EvaluationResult(Accuracy.of_counts(3, 4, split="val"), 0.1, correct=right)


def _row_seeds() -> tuple[bytes, ...]:
    accuracy, facts = Accuracy.of_counts(3, 4, split="val").as_record(), {"values": {"macs": 5.0}, "others": []}
    whole, failed = [accuracy, None, "0xb0", facts, 0.1, {"forward": 0.1}], [None, "it failed", None, facts, 1, {}]
    return _json(whole), _json(failed)


def _store_file(path: Path) -> Any:
    for rest in path.parent.glob("whole.*"):
        if rest != path:
            rest.unlink()
    with contextlib.suppress(TavtError):
        stored_bits(path, [TokenSchedule((17, 9, 9, 9))])
    with Store(path) as store:
        store.bind({"pictures": "x"})
        return store.get(TokenSchedule((17, 9, 9, 9))), len(store), store.get_attr("a")


def _store_seeds() -> tuple[bytes, ...]:
    path = Path(tempfile.mkdtemp(prefix="fuzz-store-")) / "s.db"
    with Store(path) as store:
        store.bind({"pictures": "x"})
        store.add(TokenSchedule((17, 9, 9, 9)), _answer())
    return (path.read_bytes(),)


# Models -----------------------------------------------------------------------------------------------------


@cache
def _weights() -> dict[str, torch.Tensor]:
    from tavt_kit.models.timm_import import timm

    options = {"img_size": 8, "patch_size": 4, "embed_dim": 4, "depth": 1, "num_heads": 2, "num_classes": 2}
    model = timm.create_model("vit_tiny_patch16_224", mlp_ratio=1.0, **options)
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


def _converted(path: Path) -> Any:
    return convert(path, name="vit_tiny_patch16_224", heads=2)


def _weight_seeds(suffix: str) -> Callable[[], tuple[bytes, ...]]:
    def seeds() -> tuple[bytes, ...]:
        path = Path(tempfile.mkdtemp(prefix="fuzz-weights-")) / f"w{suffix}"
        if suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(_weights(), path)
        elif suffix == ".npz":
            np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in list(_weights().items())[:4]})
        else:
            few = dict(list(_weights().items())[:3])
            torch.save({"state_dict_ema": few, "arch": "vit_tiny_patch16_224"}, path)
        return (path.read_bytes(),)

    return seeds


def _state(path: Path) -> Any:
    return load_state(path.parent.parent)


def _state_seeds() -> tuple[bytes, ...]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-state-"))
    save_state(folder, {"step": 1, "best": {"step": 0}, "weights": {"a": torch.zeros(2)}, "draws": (1, 2)})
    return ((folder / "state" / "step-00000001.pt").read_bytes(),)


def _shapes(value: Any) -> Any:
    """A file of tensors by names and shapes, as every family's reader sees it."""
    if not isinstance(value, dict):
        return None
    options = value.pop("options", {})
    tensors, left = dict[str, torch.Tensor](), 200_000
    for name, shape in list(value.items())[:400]:
        if not isinstance(shape, list) or not all(type(one) is int and 0 <= one <= 4096 for one in shape):
            continue
        size = int(np.prod(shape)) if shape else 1
        if len(shape) > 6 or size > left:
            continue
        left -= size
        tensors[name.encode("utf-8", "replace").decode()] = torch.zeros(shape)
    path = FOLDER / "shapes" / "w.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(tensors, path)
    known = {"heads", "slide_step", "image_size", "num_token", "num_selects", "name"}
    numbers = (int, str, list)
    given = {
        key: one for key, one in (options.items() if isinstance(options, dict) else ())
        if key in known and isinstance(one, numbers) and not isinstance(one, bool)
    }  # fmt: skip
    for key in ("slide_step", "image_size", "num_token"):  # the command line takes nothing else
        if key in given and not (isinstance(given[key], int) and 1 <= given[key] <= 1024):
            del given[key]
    for key in ("heads", "num_selects"):
        one = given.get(key)
        several = one if isinstance(one, list) and key == "num_selects" else [one]
        if key in given and not all(isinstance(item, int) and 1 <= item <= 1024 for item in several):
            del given[key]
    if not isinstance(given.get("name", ""), str):
        del given["name"]
    return convert(path, **given)


def _shape_seeds() -> tuple[bytes, ...]:
    """Names and shapes of small files of every family, and of timm's."""
    from tests.checkpoints.readers import READERS
    from tests.checkpoints.readers import sample as sample_of

    found = [_json({name: list(one.shape) for name, one in _weights().items()} | {
        "options": {"name": "vit_tiny_patch16_224", "heads": 2}})]  # fmt: skip
    for family in READERS:
        if family in ("google", "hugging_face"):
            continue
        sample = sample_of(family, GOLDEN.parent / "reference")
        options = {key: list(one) if isinstance(one, tuple) else one for key, one in sample.options.items()}
        shapes = {name: list(tensor.shape) for name, tensor in sample.tensors.items()}
        raw = _json({**shapes, "options": options})
        if len(raw) < 12_000 and sum(tensor.numel() for tensor in sample.tensors.values()) < 200_000:
            found.append(raw)
    return tuple(found)


def _hugging_face(name: str) -> Target:
    def target(raw: bytes) -> Any:
        folder = FOLDER / "hugging-face"
        if not folder.exists():
            shutil.copytree(FOLDERS / "vit", folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(raw)
        try:
            return convert(folder)
        finally:
            (folder / name).write_bytes(whole)

    return target


def _timm_config(path: Path) -> Any:
    weights = path.parent / "w.safetensors"
    if not weights.exists():
        weights.write_bytes(_weight_seeds(".safetensors")()[0])
    return convert(weights)


def _card_and_model(folder: Path) -> Any:
    return load_model(folder)


def _card_seeds() -> tuple[bytes, ...]:
    return ((tiny() / "model.json").read_bytes(),)


def _policy_text(given: str) -> Any:
    options = DataOptions(auto_augment=given)
    return _policy(given, options, Preprocessing((32, 32)))


def _recipe(path: Path) -> Any:
    with contextlib.suppress(TavtError):
        train_recipe(str(path))
    return distill_recipe(str(path))


# Files ------------------------------------------------------------------------------------------------------

CARD = {"family": "timm_vit", "name": "v", "arguments": {"depth": 4}, "classes": ["a", "b"], "preprocessing": {},
        "weights_sha256": "ab", "schedule": [17, 9, 9, 9]}  # fmt: skip
ARTIFACT = ArtifactCard(ModelCard.from_record(CARD), TokenSchedule((17, 9, 9, 9)), 17, 1)
VALUE = ARTIFACT.as_text().encode()
FRONT = {"schema": "fgvc-kit/front", "version": 2, "metric": "top1", "split": "val", "objectives": ["macs"],
         "budgets": ["flops=3G"], "verdict": "PASS", "chosen": 0, "model": {"name": "v"}, "target": None,
         "candidates": [{"schedule": [17, 9, 9, 9], "macs": 5, "top1": 0.5, "n": 4, "ci95": [0.1, 0.9],
                         "latency_ms": None, "origin": "taper", "verdict": "PASS"}]}  # fmt: skip
SPLIT = {"schema": "fgvc-kit/split", "version": 1, "name": "d", "root": "/tmp", "classes": ["a"], "made": "carved",
         "seed": 0, "licence": None, "note": "", "sha256": "x", "splits": {"train": [["a/0.png", 0]]}}  # fmt: skip
TIME = {"samples": [1.0, 2.0, 1.5], "warmup": 1, "steady": True}
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"
    b"\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82"
)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    length, size = len(payload), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload


ONNX = b"\x08\x08" + _field(14, _field(1, b"fgvc_kit") + _field(2, VALUE))
XML = b"<net><rt_info><fgvc_kit value='" + VALUE.replace(b"'", b"&apos;") + b"'/></rt_info></net>"


def _graph(path: Path) -> Any:
    """What a file says of its weights, once its card was read."""
    read_metadata(path)
    return stored_precision(path)


def _sealed(suffix: str, raw: bytes) -> Callable[[], tuple[bytes, ...]]:
    def seeds() -> tuple[bytes, ...]:
        path = Path(tempfile.mkdtemp(prefix="fuzz-seal-")) / f"m{suffix}"
        path.write_bytes(raw)
        path.with_suffix(".bin").write_bytes(b"w")
        seal(path)
        return (path.read_bytes(),)

    return seeds


def _image_seeds() -> tuple[bytes, ...]:
    found = [PIXEL, b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", b"BM\x00\x00"]
    image = Image.new("RGB", (3, 2), (200, 10, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    for form, options in (("PNG", {}), ("JPEG", {"exif": exif}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("TIFF", {}),
                          ("PPM", {}), ("TGA", {}), ("ICO", {"sizes": [(1, 1)]})):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found.append(buffer.getvalue())
    for mode in ("RGBA", "LA", "P", "I;16", "1", "CMYK"):
        buffer = io.BytesIO()
        Image.new(mode, (2, 2)).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
        found.append(buffer.getvalue())
    return tuple(found)


def _images(path: Path) -> Any:
    with contextlib.suppress(TavtError):
        open_size(path)
    return open_image(path)


_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt", "hierarchy.txt",
          "variants.txt", "images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt",
          "anno/train.txt", "anno/test.txt", "train2017.json", "val2017.json")  # fmt: skip


def _published(root: Path) -> Any:
    recognise(root)
    for name in ("cub", "nabirds", "aircraft", "cotton80", "inat2017"):
        with contextlib.suppress(TavtError):
            FACTS[name].read(root)


def _published_seeds() -> tuple[bytes, ...]:
    root = Path(tempfile.mkdtemp(prefix="fuzz-lists-"))
    layouts.cub(root)
    layouts.aircraft(root)
    layouts.label_lists(root)
    layouts.inat2017(root)
    found = []
    for name in _LISTS:
        place = next(iter(sorted(root.rglob(name))), None)
        found.append(b"" if place is None else place.read_bytes()[:600])
    return (CUT.join(found),)


def _mat(raw: bytes) -> Any:
    """Every file of the published layouts that is in MATLAB's format is this one."""
    root = FOLDER / "matlab"
    for name in ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "devkit/cars_test_annos_withlabels.mat",
                 "train_list.mat", "test_list.mat"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)
    with contextlib.suppress(TavtError):
        FACTS["dogs"].read(root)
    return FACTS["cars"].read(root)


def _mat_seeds() -> tuple[bytes, ...]:
    from scipy.io import savemat

    names, cells = np.empty((1, 2), object), np.empty((2, 1), object)
    names[0], cells[:, 0] = ["a", "b"], ["n1-a/n1_1", "n2-b/n2_2"]
    values = {"class_names": names, "annotations": layouts.annotations([(1, "a.jpg")]), "annotation_list": cells,
              "labels": np.array([[1], [2]])}  # fmt: skip
    found = []
    for packed in (True, False):
        buffer = io.BytesIO()
        savemat(buffer, values, do_compression=packed)
        found.append(buffer.getvalue())
    return tuple(found)


_GROUP = ("cpu.max", "cpu.stat", "memory.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes")


def _control_group(root: Path) -> Any:
    if not (root / "proc").exists():
        (root / "proc" / "self").mkdir(parents=True)
        (root / "proc" / "self" / "cgroup").write_text("0::/\n")
    return ControlGroup.read(root)


TARGETS: dict[str, Door] = {
    "duration": (text(parse_duration), of("1h30m", "90s", "15")),
    "fraction": (text(parse_fraction), of("10%", "0.1")),
    "numbers": (text(lambda given: settings_of("convert")["num_selects"].read([given])), of("1,1,4")),
    "budget": (text(lambda given: Budget.parse(given.split(" "))),
               of("latency=8ms memory=2GB", "drop=0.5 recall[a]=90% flops=3.2G", "throughput=100/s top1=84%")),
    "target": (text(TargetDevice.parse), of("openvino:cpu:threads=2:batch=4", "torch:cuda:0", "onnxruntime:cpu")),
    "schedule": (text(lambda given: TokenSchedule.parse(given, LAYOUT)),
                 of("17,9,9,9", "taper:0.2", "stages:0.3", "dense", "17x2,9x2", "curve:0:4:0.5:2")),
    "curve": (text(Curve.parse), of("0:4:0.5:2")),
    "objectives": (text(lambda given: Objectives.parse(given.split(" "))), of("macs top1", "latency")),
    "settings": (text(_settings), of("export\nlimit=3\nprecision=int8", "train\nresize=600,448\nmixup=0.2",
                                     "train\naugment=flip,shift", "search\nevaluations=5\npopulation=3",
                                     "distill\nschedules=a\nclip=none")),
    "command line": (text(_command_line), of("export m --limit 3 --set compare_dense=true -oX", "train --no-dense",
                                             "search a --budget latency=8ms --limit=4 -o b", "fit d --max-time 3m")),
    "config": (file("config.toml", _config), of("\x06limit = 3\n", '\x06precision = "int8"\nformat = ["onnx"]\n',
                                                "\x01seed = 1\nmixup = 0.2")),
    "recipe": (file("recipe.toml", _recipe), of('base = "modern"\nsteps = 3\n', "lr = 0.1\nmixup = 0.2\n",
                                                '[loop]\nsteps = 4\n')),
    "policy": (text(_policy_text), of("rand-m9-mstd0.5-inc1", "original", "augmix-m3-w3", "3a")),
    "model name": (text(check_name), of("vit_tiny_patch16_224", "vit_small_patch14_dinov2.lvd142m")),
    "data name": (text(_data_name), of("cub:/a", "Validation")),
    "json": (text(no_value(parse_json, ValueError)), of('{"a": [1, 2.5, null, "x"]}')),
    "toml": (text(no_value(parse_toml, ValueError)), of('a = 1\n[b]\nc = "d"\n')),
    "terminal and table": (text(_steers_nothing), of("=1+1\x1b[2J\u202e")),
    "csv list": (file("list.csv", load_csv), of("path,label,split\na.png,x,train\nb.png,y,val\n")),
    "json lines": (file("lines.jsonl", read_lines), of('{"step": 1}\n{"step": 2}\n')),
    "journal": (file("journal/metrics.jsonl", _journal), of('{"step": 1, "loss": 2.5}\n{"step": 2}\n')),
    "published lists": (files("published", _LISTS, _published), _published_seeds),
    "matlab files": (_mat, _mat_seeds),
    "control group": (files("sys/fs/cgroup", _GROUP, lambda _: _control_group(FOLDER)),
                      of(CUT.join((b"200000 100000", b"nr_throttled 3\nthrottled_usec 5", b"1000000", b"-1", b"100000",
                                   b"9223372036854771712")))),
    "any record": (_any_record, recorded(most=3000)),
    "codec": (record(lambda value: decode(dict[str, tuple[int, str] | None], value)), of('{"a": [1, "x"]}')),
    "front": (_beside("front.json", _front), lambda: (_json(FRONT), *recorded("front")())),
    "fit record": (_beside("fit.json", _fit), recorded("fit")),
    "fit plan": (_beside("plan.json", lambda folder: _begun(folder, {"seed": 0}, False)), lambda: (_json(
        {"schema": "fgvc-kit/fit-plan", "version": 1, "asked": {"seed": 0}, "plan": {}}),)),
    "fit times": (_beside("bench.json", lambda folder: _recorded_times(folder / "bench.json")), recorded("bench")),
    "fit answers": (_beside("answers.json", lambda folder: _recorded_answers(folder / "answers.json")), lambda: (_json(
        {"schema": "fgvc-kit/fit-answers", "version": 1, "files": {"a.xml": {"val": "0110", "test": None}}}),)),
    "eval record": (_beside("eval.json", _pushed), lambda: (_json(
        {"schema": "fgvc-kit/eval", "version": 2, "data": "d", "top1": {"split": "val", "value": 0.5}}),)),
    "exported and check": (_exported, _export_seeds),
    "report": (_report, lambda: (*recorded()(), CUT.join(recorded("front", "recipe", "kept")()[:3]))),
    "compare": (_compared, recorded("bench", "check", "front", "fit", "eval")),
    "run record": (_beside("run.json", _run_record), recorded("run")),
    "pruned": (_beside("prune.json", _derived), lambda: (_json(
        {"schema": "fgvc-kit/prune", "version": 1, "request": {"mlp": 0.5}}),)),
    "split": (file("split.json", lambda path: read_split(path.parent)), lambda: (_json(SPLIT),)),
    "model card": (record(ModelCard.from_record), lambda: (_json(CARD),)),
    "run model": (_beside("model.json", _card_and_model), _card_seeds),
    "preprocessing": (record(Preprocessing.from_record), lambda: (_json(Preprocessing((8, 8)).as_record()),)),
    "configuration": (record(Configuration.from_record), lambda: (_json({"schedule": [9, 9], "precision": "f32"}),)),
    "measurement": (record(Measurement.from_record), lambda: (_json(TIME),)),
    "accuracy": (record(Accuracy.from_record), lambda: (_json(Accuracy.of_counts(3, 9, split="val").as_record()),)),
    "difference": (record(PairedDifference.from_record),
                   lambda: (_json(PairedDifference.of_counts(3, 2, 9).as_record()),)),
    "host": (record(HostFacts.from_record), lambda: (_json(HostFacts.gather().as_record()),)),
    "device": (record(TargetDevice.from_record), lambda: (_json(TargetDevice.parse("openvino:cpu").as_record()),)),
    "table": (record(_table), lambda: (*recorded("profile", most=4000)(),)),
    "artifact card": (record(ArtifactCard.from_record), lambda: (_json(ARTIFACT.as_record()),)),
    "lock": (file("held/.lock", _locked), of('{"pid": 1, "host": "h", "since": "t"}')),
    "store row": (record(_store_row), _row_seeds),
    "store file": (file("store/whole.db", _store_file), _store_seeds),
    "xml": (file("m.xml", _graph), of(XML)),
    "onnx": (file("m.onnx", read_metadata), of(ONNX)),
    "onnx graph": (file("g.onnx", _graph), of(ONNX)),
    "protobuf": (file("p.onnx", lambda path: no_value(lambda one: onnx_metadata(one, "fgvc_kit"), ValueError)(path)),
                 of(b"\x08\x08:\x02\n\x00")),
    "sealed onnx": (file("sealed/m.onnx", require_unchanged), _sealed(".onnx", ONNX)),
    "sealed xml": (files("sealed", ("m.xml", "m.bin"), lambda folder: require_unchanged(folder / "m.xml")),
                   lambda: (_sealed(".xml", b"<net/>")()[0] + CUT + b"w",)),
    "safetensors": (file("w.safetensors", _converted), _weight_seeds(".safetensors")),
    "torch file": (file("w.pth", lambda path: read_weight_file(path)), _weight_seeds(".pth")),
    "npz": (file("w.npz", _converted), _weight_seeds(".npz")),
    "training state": (file("state-run/state/step-00000001.pt", _state), _state_seeds),
    "names and shapes": (record(_shapes), _shape_seeds),
    "hugging face": (_hugging_face("config.json"), lambda: ((FOLDERS / "vit" / "config.json").read_bytes(),)),
    "preprocessor": (_hugging_face("preprocessor_config.json"),
                     lambda: ((FOLDERS / "vit" / "preprocessor_config.json").read_bytes(),)),
    "timm config": (file("timm/config.json", _timm_config), of('{"architecture": "vit_tiny_patch16_224"}')),
    "image": (lambda raw: open_image(raw), _image_seeds),
    "image file": (file("i.png", _images), _image_seeds),
}  # fmt: skip
"""Of each name the reader, and what makes the inputs that fuzzing begins with."""

CORPUS = Path(__file__).parent / "corpus"


def feed(name: str, raw: bytes) -> None:
    """One input: all but our own errors, in one line, goes through."""
    try:
        TARGETS[name][0](raw)
    except TavtError as error:
        assert str(error), "an empty sentence"


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Those of the table, and what fuzzing kept."""
    folder = CORPUS / name.replace(" ", "-")
    return (*TARGETS[name][1](), *(path.read_bytes() for path in sorted(folder.glob("*"))))
