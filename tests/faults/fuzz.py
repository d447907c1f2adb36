"""Every parser and reader of records, each fed with bytes: it answers, or refuses with one of our sentences.

    python -m tests.faults.fuzz --seconds 300 [--only NAME]

runs each target under atheris (coverage-guided; from PyPI, not a dependency) in a process of its own and keeps the
inputs that reached new code in ``tests/faults/corpus/NAME``. The quick suite feeds small mutations of the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.artifact_card import ArtifactCard, onnx_metadata, read_metadata
from tavt_kit.core.budget import Budget
from tavt_kit.core.codec import decode
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.parsing import csv_text, parse_duration, parse_fraction, parse_json, parse_toml
from tavt_kit.core.records import read_lines, read_record
from tavt_kit.core.schedule import Curve, TokenSchedule
from tavt_kit.data.folders import load_csv
from tavt_kit.data.preprocess import Preprocessing, open_image
from tavt_kit.data.splits import read_split
from tavt_kit.errors import TavtError
from tavt_kit.search.objectives import Objectives
from tavt_kit.verbs.settings import read_settings, settings_of, spell_settings
from tavt_kit.verbs.streams import shown

HERE = Path(__file__).parent
LAYOUT = TokenLayout(17, 4)
Target = Callable[[bytes], Any]


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
    """Of a reader of files, by a file of this name."""

    def target(raw: bytes) -> Any:
        path = FOLDER / name
        path.write_bytes(raw)
        return read(path)

    return target


def _values(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser whose refusal of what is no text of its kind is a ValueError, by promise."""

    def reading(given: str) -> Any:
        try:
            return read(given)
        except ValueError:
            return None

    return reading


def _steers_nothing(given: str) -> None:
    for said in (shown(given), csv_text(["a"], [[given]])):
        assert "\x1b" not in shown(said)
    assert not csv_text(["a"], [[given]]).removeprefix("a\n").startswith(("=", "+", "-", "@"))


FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
TIME = {"samples": [1.0, 2.0, 1.5], "warmup": 1, "steady": True}
CARD = {"family": "timm_vit", "name": "v", "arguments": {"depth": 4}, "classes": ["a", "b"], "preprocessing": {},
        "weights_sha256": "ab", "schedule": [17, 9, 9, 9]}  # fmt: skip
FRONT = {"schema": "fgvc-kit/front", "version": 2, "metric": "top1", "objectives": ["macs"], "budgets": ["flops=3G"],
         "candidates": [{"schedule": [9, 9], "macs": 5, "top1": 0.5, "n": 4, "ci95": [0.1, 0.9]}]}  # fmt: skip
SPLIT = {"schema": "fgvc-kit/split", "version": 1, "name": "d", "root": "/tmp", "classes": ["a"], "made": "carved",
         "seed": 0, "licence": None, "note": "", "sha256": "x", "splits": {"train": [["a/0.png", 0]]}}  # fmt: skip
ARTIFACT = ArtifactCard(ModelCard.from_record(CARD), TokenSchedule((17, 9, 9, 9)), 17, 1)
VALUE = ARTIFACT.as_text().encode()
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"
    b"\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82"
)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    length, size = len(payload), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + payload


TARGETS: dict[str, tuple[Target, tuple[bytes, ...]]] = {
    "duration": (text(parse_duration), (b"1h30m", b"90s", b"15")),
    "fraction": (text(parse_fraction), (b"10%", b"0.1")),
    "numbers": (text(lambda given: settings_of("convert")["num_selects"].read([given])), (b"1,1,4",)),
    "budget": (text(lambda given: Budget.parse(given.split(" "))),
               (b"latency=8ms memory=2GB", b"drop=0.5 recall[a]=90% flops=3.2G", b"throughput=100/s top1=84%")),
    "target": (text(TargetDevice.parse), (b"openvino:cpu:threads=2:batch=4", b"torch:cuda:0", b"onnxruntime:cpu")),
    "schedule": (text(lambda given: TokenSchedule.parse(given, LAYOUT)),
                 (b"17,9,9,9", b"taper:0.2", b"stages:0.3", b"dense", b"17x2,9x2", b"curve:0:4:0.5:2")),
    "curve": (text(Curve.parse), (b"0:4:0.5:2",)),
    "objectives": (text(lambda given: Objectives.parse(given.split(" "))), (b"macs top1", b"latency")),
    "settings": (text(lambda given: read_settings("export", given.split("\n"))), (b"limit=3\nprecision=int8",)),
    "spelling": (text(lambda given: _spelled(given.split(" "))), (b"m --limit 3 --set dense=true -oX", b"--no-dense")),
    "json": (text(_values(parse_json)), (b'{"a": [1, 2.5, null, "x"]}',)),
    "toml": (text(_values(parse_toml)), (b'a = 1\n[b]\nc = "d"\n',)),
    "terminal and table": (text(_steers_nothing), ("=1+1\x1b[2J\u202e".encode(),)),
    "csv list": (file("list.csv", load_csv), (b"path,label,split\na.png,x,train\nb.png,y,val\n",)),
    "json lines": (file("lines.jsonl", read_lines), (b'{"step": 1}\n{"step": 2}\n',)),
    "front": (file("front.json", lambda path: read_record(path, "front")), (_json(FRONT),)),
    "split": (file("split.json", lambda path: read_split(path.parent)), (_json(SPLIT),)),
    "model card": (record(ModelCard.from_record), (_json(CARD),)),
    "preprocessing": (record(Preprocessing.from_record), (_json(Preprocessing((8, 8)).as_record()),)),
    "configuration": (record(Configuration.from_record), (_json({"schedule": [9, 9], "precision": "f32"}),)),
    "measurement": (record(Measurement.from_record), (_json(TIME),)),
    "accuracy": (record(Accuracy.from_record), (_json(Accuracy.of_counts(3, 9, split="val").as_record()),)),
    "difference": (record(PairedDifference.from_record), (_json(PairedDifference.of_counts(3, 2, 9).as_record()),)),
    "host": (record(HostFacts.from_record), (_json(HostFacts.gather().as_record()),)),
    "table": (record(LatencyTable.from_record), ()),
    "artifact card": (record(ArtifactCard.from_record), (_json(ARTIFACT.as_record()),)),
    "any record": (record(lambda value: decode(dict[str, tuple[int, str] | None], value)), (b'{"a": [1, "x"]}',)),
    "xml": (file("m.xml", read_metadata), (b"<net><rt_info><fgvc_kit value='" + VALUE + b"'/></rt_info></net>",)),
    "onnx": (file("m.onnx", read_metadata), (b"\x08\x08" + _field(14, _field(1, b"fgvc_kit") + _field(2, VALUE)),)),
    "protobuf": (file("p.onnx", lambda path: onnx_metadata_or_none(path)), (b"\x08\x08:\x02\n\x00",)),
    "image": (lambda raw: open_image(raw), (PIXEL, b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", b"BM\x00\x00")),
}  # fmt: skip
"""Of each name the reader and what it reads."""


def onnx_metadata_or_none(path: Path) -> str | None:
    try:
        return onnx_metadata(path, "fgvc_kit")
    except ValueError:  # as its reader expects
        return None


def _spelled(words: list[str]) -> Any:
    import typer

    try:
        return spell_settings("export", words, {"--json": True})
    except typer.BadParameter:
        return None


def feed(name: str, raw: bytes) -> None:
    """One input: all but our own errors, in one line, goes through."""
    try:
        TARGETS[name][0](raw)
    except TavtError as error:
        assert str(error), "an empty sentence"


def seeds(name: str) -> list[bytes]:
    """Those of the table, and what fuzzing kept."""
    folder = HERE / "corpus" / name.replace(" ", "-")
    return [*TARGETS[name][1], *(path.read_bytes() for path in sorted(folder.glob("*")))]


INSIDE = """
import sys
from pathlib import Path
import atheris
with atheris.instrument_imports(include=["tavt_kit"]):
    from tests.faults.fuzz import fuzz
fuzz(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
"""
"""What a process of its own runs: our code is instrumented as it is imported."""


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """In a process of its own: atheris on one target."""
    import atheris

    atheris.Setup(
        [sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=4096", "-timeout=20",
         "-print_final_stats=1", f"-artifact_prefix={corpus.parent}/crash-{corpus.name}-"],
        lambda raw: feed(name, raw),
    )  # fmt: skip
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("--work", type=Path, default=Path("runs/fuzz"), help="corpora, logs and crashes")
    given = parser.parse_args()
    failed = []
    for name in given.only or TARGETS:
        corpus = given.work / name.replace(" ", "-")
        corpus.mkdir(parents=True, exist_ok=True)
        for number, raw in enumerate(seeds(name)):
            (corpus / f"seed-{number}").write_bytes(raw)
        before = os.times()
        with (given.work / f"{corpus.name}.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, "-c", INSIDE, name, str(given.seconds), str(corpus)], stdout=log, stderr=log
            )
        after = os.times()
        lines = (given.work / f"{corpus.name}.log").read_text(errors="replace").splitlines()
        told = [line for line in lines if " cov: " in line][-1:] or lines[-1:]
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{name}: exit {done.returncode}, {cpu:.0f} s of processor: {' '.join(told)[:160]}", flush=True)
        failed += [name] if done.returncode else []
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(f"{len(failed)} of {len(given.only or TARGETS)} targets failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
