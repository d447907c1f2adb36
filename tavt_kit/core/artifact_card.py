"""ArtifactCard: what an exported file says of itself, so that the one file is enough to use it.

Written into ONNX ``metadata_props`` and OpenVINO ``rt_info`` under the key ``fgvc_kit``; read here with the standard
library only, whatever the size of the file, because an edge box has neither torch nor the onnx package.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from reprlib import repr as short
from types import MappingProxyType
from typing import IO, Any
from xml.etree import ElementTree

from tavt_kit.core.codec import encode
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.parsing import parse_json
from tavt_kit.core.records import label_record, read_record, sha256_file, sha256_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import RecordError, ScheduleError, TavtError, UnknownName

CHECK_FILE = "check.json"
SEAL_KEY = "fgvc_kit_sha256"
# What stands before and behind the hash with which a file ends, by suffix; no runtime looks at it.
_SEALS = {
    ".onnx": (b"r\x53\x0a\x0ffgvc_kit_sha256\x12\x40", b""),  # field 14 of ModelProto: an entry of metadata_props
    ".xml": (b"<!-- fgvc_kit_sha256 ", b" -->\n"),
}
_HEX = 64


def changed_since_check(path: Path, folder: Path | None = None) -> str:
    """A clause that names the part of an artifact that is not what was written and checked, or nothing.

    A file without a hash of its own, which an earlier version wrote, is compared with its check alone, if there is one.

    Args:
        folder: Where ``check.json`` lies; by default where the file lies.
    """
    try:
        for file in files_of(path):
            known = _checked(file.name, path.parent if folder is None else folder)
            if known and sha256_file(file) not in known:
                return f"{file} is not the file that was checked (its SHA-256 changed)"
        before, behind = _SEALS[path.suffix]
        length = len(before) + _HEX + len(behind)
        with path.open("rb") as opened:
            start = max(opened.seek(0, os.SEEK_END) - length, 0)
            opened.seek(start)
            end = opened.read()
        own = end[len(before) : len(before) + _HEX].decode("ascii", "replace")
        if end.startswith(before) and end.endswith(behind) and own != _digest(path, start):
            files = " or ".join(map(str, files_of(path)))
            return f"{files} is not as it was exported (the hash at the end of {path.name} is another)"
    except OSError as error:
        raise RecordError(f"cannot read {error.filename}: {error.strerror}") from None
    return ""


def require_unchanged(path: Path) -> None:
    """Refuse, with a RecordError, an artifact that changed after it was exported or checked."""
    if changed := changed_since_check(path):
        raise RecordError(
            f"{changed}, so nobody knows what it is worth; check it again (fgvc-kit check {path} `against` RUN), or "
            "export it again"
        )


def seal(path: Path) -> None:
    """Put a hash of all of an artifact's files at the end of the one that is opened, so that it needs no record."""
    before, behind = _SEALS[path.suffix]
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(before + digest.encode("ascii") + behind)


def _digest(path: Path, size: int) -> str:
    """Of the first ``size`` bytes of the file that is opened, and of all others; their names may change."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (part := file.read(min(size, 1 << 20))):
            whole.update(part)
            size -= len(part)
    return sha256_text("".join([whole.hexdigest(), *map(sha256_file, files_of(path)[:-1])]))


def _checked(name: str, folder: Path) -> set[str]:
    """SHA-256 of a file at its checks; a switchable file is checked once for each of its presets."""
    try:
        checks: Any = read_record(folder / CHECK_FILE, "check").get("checks")
    except RecordError:
        return set()  # there is none, or another program's file of this name, which says nothing of ours
    entries = [check.get("sha256") for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
    return {str(entry[name]) for entry in entries if isinstance(entry, dict) and name in entry}


def onnx_metadata(path: Path, key: str) -> str | None:
    """The value of a key among the model's ``metadata_props`` (field 14 of ModelProto: key = 1, value = 2).

    The top-level fields are walked and skipped by their lengths, so the weights are never read. ValueError where it is
    no ONNX file, or cut off. Source: the protobuf wire format, and onnx.proto of ONNX 1.0 to date.
    """
    value = None
    with path.open("rb") as file:
        for _, payload in _fields(file, path.stat().st_size, (14,)):
            entry = {number: text.decode() for number, text in _fields(BytesIO(payload), len(payload), (1, 2))}
            if entry.get(1) == key:
                value = entry.get(2)
    return value


def _fields(file: IO[bytes], end: int, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """The numbers and bytes of the length-delimited fields that are wanted, up to ``end``."""
    while file.tell() < end:
        key = _varint(file)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _varint(file)
            continue
        if wire not in (1, 2, 5) or number == 0:
            raise ValueError("it is no ONNX file")
        length = {1: 8, 5: 4}.get(wire) or _varint(file)
        if file.tell() + length > end:
            raise ValueError("it is shorter than it says")
        if wire == 2 and number in wanted:
            yield number, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: IO[bytes]) -> int:
    """A base-128 number."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise ValueError("it is no ONNX file, or cut off")


METADATA_KEY = "fgvc_kit"
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
"""The file that is given to a runtime, of each format."""

PIXEL_ORDERS = ("nhwc:rgb", "nhwc:bgr", "nchw:rgb", "nchw:bgr")
"""Layouts and colours of the images that a file with its preprocessing inside may take."""

UNPROVEN = ".unproven"
"""Behind the name of a file whose check could not decide."""
WEIGHTS_SUFFIX = ".weights"
"""Of a file that holds the weights of one or more .onnx files, and is named after its content."""

_OWN = ("tokens", "prefix", "precision", "calibration")
# Fields that files of earlier programs lack, with what their absence means.
_LATER: Mapping[str, Any] = MappingProxyType({"presets": {}, "weights_file": None, "pixels": None})


@dataclass(frozen=True, slots=True)
class ArtifactCard:
    """What must be known of an exported file to run it and to trust it.

    Args:
        model: Card of the source: classes, preprocessing, score, weights' hash, licences.
        schedule: The token counts frozen into the graph; of a switchable file those it is run at unless told.
        precision: In which the weights are stored: ``f32``, ``f16``, ``bf16``, ``int8``, or ``w8`` where they alone
            have 8 bits and the rest is computed in float.
        calibration: How an int8 file was calibrated: split, images, hash of the listing.
        presets: Names and schedules of a switchable file, whose counts are an input; cheapest first.
        weights_file: Name of the file beside an .onnx file that holds its weights, if it does not itself.
        pixels: Order of the uint8 images that the file takes and prepares itself, if it does; of ``PIXEL_ORDERS``.

    Raises:
        ScheduleError: The presets of a switchable file do not fit the model, or run other layers than the file does.
    """

    model: ModelCard
    schedule: TokenSchedule
    tokens: int
    prefix: int
    precision: str = "f32"
    calibration: Mapping[str, Any] | None = None
    presets: Mapping[str, TokenSchedule] = field(default_factory=dict)
    weights_file: str | None = None
    pixels: str | None = None

    def __post_init__(self) -> None:
        for name, schedule in self.presets.items():
            if schedule.executed != self.schedule.executed:
                raise ScheduleError(
                    f"a switchable file runs the same layers under every preset, but {name} runs others than the "
                    f"rest: {schedule}; export it as a file of its own"
                )
            schedule.check(self._layout)

    @property
    def _layout(self) -> TokenLayout:
        """What a preset must fit; a card does not know what the head reads, and no preset depends on it."""
        return TokenLayout(self.tokens, self.schedule.layers, self.prefix)

    @property
    def is_switchable(self) -> bool:
        """Whether the token counts are an input of the graph."""
        return bool(self.presets)

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """The counts to give a switchable file at run time; ``None`` where they are frozen in."""
        return self.schedule.counts if self.is_switchable else None

    def chosen(self, schedule: str | None) -> ArtifactCard:
        """The card at a schedule, as text or the name of one of its presets; without one it stays as it is."""
        if schedule is None:
            return self
        if not self.is_switchable:
            raise ScheduleError(
                f"the schedule of this file, {self.schedule}, is frozen into it; leave `schedule` out, or give the run "
                "or a file exported with `switchable`"
            )
        if schedule in self.presets:
            return replace(self, schedule=self.presets[schedule])
        if schedule.isidentifier() and schedule != "dense":
            raise UnknownName(f"this file has the presets {', '.join(self.presets)}, got {schedule!r}")
        counts = replace(TokenSchedule.parse(schedule, self._layout), executed=self.schedule.executed)
        if strange := sorted(_reducing(self.tokens, counts) - set(self.sites or range(counts.layers))):
            raise ScheduleError(
                f"this file merges tokens after the layers {', '.join(map(str, self.sites or ()))} alone, but "
                f"{counts} reduces them after layer {strange[0]} too; give counts that change where a preset's do"
            )
        return replace(self, schedule=counts)

    @property
    def sites(self) -> tuple[int, ...] | None:
        """The layers after which a switchable file can merge tokens; ``None`` where it drops them, after any layer.

        Matching costs its time even where every token stays, so the graph holds it only where some preset reduces.
        """
        if not self.is_switchable or self.model.reduction == "drop":
            return None
        reducing = (_reducing(self.tokens, schedule) for schedule in self.presets.values())
        return tuple(sorted(set().union(*reducing)))

    @property
    def setting(self) -> str:
        """What a switchable file is run at: the preset's name where it is one, else the schedule; "" of others."""
        if not self.is_switchable:
            return ""
        return next((name for name, counts in self.presets.items() if counts == self.schedule), str(self.schedule))

    def own_target(self, path: Path) -> TargetDevice:
        """Where a file with this card runs if nobody says: its own runtime, on the CPU; a bf16 file in bf16."""
        runtime = "onnxruntime" if path.suffix == ".onnx" else "openvino"
        return TargetDevice(runtime, "cpu", precision="bf16" if self.precision == "bf16" else "f32")

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.model.classes

    @property
    def is_dense(self) -> bool:
        """Whether the file drops nothing."""
        return self.schedule.is_dense(self.tokens)

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The record of a ``Preprocessing``."""
        return self.model.preprocessing

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        height, width = self.preprocessing["image_size"]
        return int(height), int(width)

    def quantized(self, calibration: Mapping[str, Any]) -> ArtifactCard:
        """The card of the same graph in int8."""
        return replace(self, precision="int8", calibration=calibration)

    def as_record(self) -> dict[str, Any]:
        """JSON-ready: the model card's fields and those of the file."""
        body = {
            **self.model.as_record(),
            "schedule": encode(self.schedule),
            "executed": encode(self.schedule.executed),
            **{name: encode(getattr(self, name)) for name in (*_OWN, *_LATER)},
        }
        if self.pixels is None:
            del body["pixels"]
        return label_record("artifact", body)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ArtifactCard:
        """The inverse of ``as_record``; RecordError of another version, or fields that are missing or wrong."""
        ours = label_record("artifact", {})
        known = {name: record.get(name) for name in ours} if isinstance(record, Mapping) else {}
        if known != ours:
            raise RecordError(
                f"an artifact's metadata must be {ours['schema']} version {ours['version']}, but is "
                f"{short(known.get('schema'))} version {short(known.get('version'))}; export it again with this program"
            )
        body = {name: value for name, value in record.items() if name not in ("schema", "version")}
        try:
            counts, layers = body.pop("schedule"), body.pop("executed")
            own = {name: body.pop(name) for name in _OWN}
            own |= {name: body.pop(name, none) for name, none in _LATER.items()}
            executed = None if layers is None else tuple(layers)
            schedule = TokenSchedule(tuple(counts), executed)
            own["presets"] = {name: TokenSchedule(tuple(preset), executed) for name, preset in own["presets"].items()}
            return cls(ModelCard.from_record(body), schedule, **own)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, TavtError) else f"{type(error).__name__}: {error}"
            raise RecordError(f"an artifact's metadata cannot be used: {reason}; export it again") from None

    def as_text(self) -> str:
        """ASCII JSON, which passes through XML and protobuf unchanged."""
        return json.dumps(self.as_record(), allow_nan=False)


def read_metadata(path: Path) -> ArtifactCard:
    """What an exported ``.onnx`` or ``.xml`` file says of itself, or RecordError; loads no runtime."""
    path = Path(path)
    if path.suffix not in SUFFIXES.values():
        raise RecordError(f"an exported model ends in .onnx or .xml, got {path}")
    text = None
    try:
        if path.suffix == ".onnx":
            text = onnx_metadata(path, METADATA_KEY)
        else:  # the attribute ``value`` of ``net/rt_info/fgvc_kit``
            with path.open("rb") as file:  # the parser closes none that it did not read to its end
                elements = (element for _, element in ElementTree.iterparse(file, events=("end",)))
                text = next((element.get("value") for element in elements if element.tag == METADATA_KEY), None)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, ElementTree.ParseError) as error:
        raise RecordError(f"{path} is damaged ({error}); export it again") from None
    if text is None:
        raise RecordError(
            f"{path} carries no labels and preprocessing of ours (metadata {METADATA_KEY!r}), so it was not made by "
            "fgvc-kit export; export it again"
        )
    try:
        record = parse_json(text)
    except ValueError as error:
        raise RecordError(f"the metadata of {path} is no JSON ({error}); export it again") from None
    return ArtifactCard.from_record(record)


def files_of(path: Path) -> tuple[Path, ...]:
    """All files of an artifact, the one that is opened last; what the file or its ``*.unproven`` says of itself."""
    if path.suffix == ".xml":
        return path.with_suffix(".bin"), path
    there = next((file for file in (path, Path(f"{path}{UNPROVEN}")) if file.is_file()), None)
    try:
        named = "{}" if there is None else onnx_metadata(there, METADATA_KEY) or "{}"
        name = parse_json(named).get("weights_file")
    except (OSError, ValueError, AttributeError):  # it is none of ours
        return (path,)
    # A name alone: a file from elsewhere must not point out of its folder.
    ours = isinstance(name, str) and name == Path(name).name and name.endswith(WEIGHTS_SUFFIX)
    return (path.with_name(name), path) if ours else (path,)


def _reducing(tokens: int, schedule: TokenSchedule) -> set[int]:
    """The layers that keep fewer tokens than reach them."""
    before = (tokens, *schedule.counts)
    return {layer for layer, count in enumerate(schedule.counts) if count < before[layer]}
