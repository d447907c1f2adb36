"""Are the bench's numbers right? Four proofs, each with a goal, and an honest "missed" where it is not reached.

    python examples/studies/honesty.py --out runs/honesty

* load: other processes compute on the same cores (a steady load, and one in bursts). Two identical artifacts measured
  together must differ by less than 3 % in 19 of 20 repetitions, and a session that does 10 % more real work must be
  found slower (the paired interval above 1).
* quiet: the same without load.
* cheats: sessions that compute less, or otherwise, than they claim are reported in words; honest ones are not.
* peers: the median agrees within 3 % with OpenVINO's benchmark_app, a loop like onnxruntime_perf_test and
  torch.utils.benchmark.Timer, measured in turn (ours, theirs, ours, theirs, ...).

Every repetition is written to OUT/honesty.json at once; the same command goes on behind the last one. Exits 1 where a
goal is missed. Random weights: times do not depend on them. Run it on a machine that is quiet otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from honesty_goals import SHARE, goals
from honesty_peers import benchmark_app, onnxruntime_loop, our_p50, torch_timer
from honesty_plants import LOADS, Case, Slowed, cases, load

from tavt_kit.bench import Protocol, bench, random_images
from tavt_kit.bench.validity import ValidityMonitor
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import bootstrap_ratio
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.records import atomic_text
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import MeasurementError
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import convert, save
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import LeanViT, wrap
from tavt_kit.runtimes import Images, open_file, open_module

PARTS = ("load", "quiet", "cheats", "peers")


class Ground:
    """The model, its files and its images."""

    def __init__(self, given: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.given, self.size = given, given.image_size
        self.images: Images = random_images((1, 3, self.size, self.size), np.random.default_rng(0))
        self.target = TargetDevice("openvino", "cpu", threads=given.threads)
        folder = given.out / "files"
        folder.mkdir(parents=True, exist_ok=True)
        self.model = self._model(self.size)
        self.files = {"openvino": folder / "model.xml", "small": folder / "small.xml",
                      "onnxruntime": folder / "model.onnx"}  # fmt: skip
        for name, path in self.files.items():
            if not path.is_file():
                say(f"writing {path}")
                size = self.size // 2 if name == "small" else self.size
                model = self._model(size)
                card = ArtifactCard(self._card(size), model.dense_schedule, model.tokens, model.prefix)
                to_onnx(model, card, path) if path.suffix == ".onnx" else save(convert(model, card), card, path)

    def _model(self, size: int) -> Any:
        return wrap(timm.create_model(self.given.model, img_size=size, num_classes=20).eval())

    def _card(self, size: int) -> ModelCard:
        classes = tuple(f"class {i}" for i in range(20))
        return ModelCard("timm_vit", self.given.model, {}, classes, Preprocessing((size, size)).as_record())


class Journal:
    """OUT/honesty.json: what was asked, and the rows of each part."""

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self.path = path
        self.body: dict[str, Any] = {"asked": asked, "host": HostFacts.gather().as_record(), "rows": {}}
        if path.is_file():
            self.body = json.loads(path.read_text(encoding="utf-8"))
            if self.body["asked"] != asked:
                raise SystemExit(f"{path} was made with {self.body['asked']}, not {asked}; choose another --out")

    def rows(self, part: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.body["rows"].setdefault(part, [])
        return found

    def add(self, part: str, row: dict[str, Any]) -> None:
        self.rows(part).append(row)
        self.write()

    def write(self) -> None:
        atomic_text(self.path, json.dumps(self.body, indent=1) + "\n")


def twins(ground: Ground, journal: Journal, kind: str | None, repeats: int) -> None:
    """Identical artifacts and a planted slowdown, measured together, with and without load."""
    part, given = kind or "quiet", ground.given
    protocol = Protocol(
        min_seconds=given.seconds, max_seconds=given.seconds, warmup_seconds=1.0, visit_seconds=given.visit
    )
    while (done := len(journal.rows(part))) < repeats:
        one, twin = (open_file(ground.files["openvino"], ground.target) for _ in range(2))
        slowed = Slowed(open_file(ground.files["openvino"], ground.target), ground.images, SHARE)
        with nullcontext() if kind is None else load(kind, seed=1000 * done):
            sessions = {"one": one, "twin": twin, "slowed": slowed}
            found = bench(sessions, ground.images, protocol, rng=np.random.default_rng(done))
        changes = {name: bootstrap_ratio(found[name], found["one"]) for name in ("twin", "slowed")}
        journal.add(part, {"median_ms": found["one"].median, "rounds": len(found["one"].rounds), **{
            name: {"ratio": each.value, "ci95": [each.low, each.high]} for name, each in changes.items()}})  # fmt: skip
        ratios = ", ".join(f"{name} {each.value:.3f}" for name, each in changes.items())
        say(f"{part} {done + 1} of {repeats}: {ratios}")


def cheats(ground: Ground, journal: Journal) -> None:
    """Every plant once; those already in the journal are left."""
    known = {row["plant"] for row in journal.rows("cheats")}
    for case in cases(ground.files, ground.target, ground.images):
        if case[0] not in known:
            said = reported(case, ground)
            wanted = case[3]
            met = not said if not wanted else any(wanted in sentence for sentence in said)
            journal.add("cheats", {"plant": case[0], "wanted": wanted or "nothing", "said": said, "met": met})
            say(f"{case[0]}: {'; '.join(said) or 'nothing said'}")


def reported(case: Case, ground: Ground) -> list[str]:
    """What a bench of it says."""
    _, opened, images, _ = case
    session = opened()
    monitor = ValidityMonitor({"it": session}, {"it": images}, np.random.default_rng(0))
    seconds = ground.given.seconds / 4
    protocol = Protocol(min_seconds=seconds, max_seconds=seconds, warmup_seconds=1.0)
    try:
        found = bench({"it": session}, images, protocol, monitor=monitor)["it"]
    except MeasurementError as error:
        return [f"refused: {error}"]
    return list(monitor.doubts("it", found.median))


def peers(ground: Ground, journal: Journal) -> None:
    """Medians of ours and of theirs, in turn."""
    given = ground.given
    onnx = TargetDevice("onnxruntime", "cpu", threads=given.threads)
    lean = LeanViT(ground.model, ground.model.dense_schedule).eval()
    xml, size, threads = ground.files["openvino"], ground.size, given.threads
    both: dict[str, tuple[Any, Callable[[float], float]]] = {
        "benchmark_app": (open_file(xml, ground.target), lambda seconds: benchmark_app(xml, threads, size, seconds)),
        "onnxruntime loop": (
            open_file(ground.files["onnxruntime"], onnx),
            onnxruntime_loop(ground.files["onnxruntime"], threads, ground.images),
        ),
        "torch Timer": (
            open_module(lean, TargetDevice("torch", "cpu", threads=threads), ground.images.shape),
            torch_timer(lean, threads, ground.images),
        ),
    }
    for name, (session, theirs) in both.items():
        while (turn := sum(row["peer"] == name for row in journal.rows("peers"))) < given.turns:
            ours = our_p50(session, ground.images, given.seconds)
            row = {"peer": name, "ours_ms": ours, "theirs_ms": theirs(given.seconds)}
            journal.add("peers", row)
            say(f"{name} {turn + 1} of {given.turns}: {ours:.3f} and {row['theirs_ms']:.3f} ms")


def show(found: Sequence[dict[str, Any]], given: argparse.Namespace) -> None:
    print(f"{given.model} at {given.image_size} px, f32, {given.threads} threads; {HostFacts.gather()}\n")
    print("| goal | found | |\n|---|---|---|")
    for row in found:
        print(f"| {row['goal']} | {row['found']} | {'met' if row['met'] else '**missed**'} |")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, with commas between")
    parser.add_argument("--repeats", type=int, default=20, help="of load, for each kind; a quarter of quiet")
    parser.add_argument("--seconds", type=float, default=15.0, help="of timed runs for each candidate")
    parser.add_argument("--visit", type=float, default=Protocol().visit_seconds, help="seconds of a turn")
    parser.add_argument("--loads", default=",".join(LOADS), help="of load, with commas between")
    parser.add_argument("--turns", type=int, default=5, help="of ours and theirs, for each peer")
    parser.add_argument("--out", type=Path, default=Path("runs/honesty"))
    given = parser.parse_args()
    given.parts = given.parts.split(",")
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(unknown)}")
    given.loads = given.loads.split(",")
    if unknown := [kind for kind in given.loads if kind not in LOADS]:
        parser.error(f"loads are {', '.join(LOADS)}, got {', '.join(unknown)}")
    return given


def main() -> None:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(given, name) for name in ("model", "image_size", "threads", "seconds", "visit")}
    journal, ground = Journal(given.out / "honesty.json", asked), Ground(given)
    for kind in given.loads if "load" in given.parts else ():
        twins(ground, journal, kind, given.repeats)
    if "quiet" in given.parts:
        twins(ground, journal, None, math.ceil(given.repeats / 4))
    if "cheats" in given.parts:
        cheats(ground, journal)
    if "peers" in given.parts:
        peers(ground, journal)
    journal.body["goals"] = goals(journal.body["rows"])
    journal.write()
    show(journal.body["goals"], given)
    sys.exit(0 if all(row["met"] for row in journal.body["goals"]) else 1)


if __name__ == "__main__":
    main()
