"""How much of the saving in multiply-adds token dropping turns into time, in each runtime and precision, one image.

    python examples/studies/export_speed.py --threads 2 --out runs/export-speed

A ViT with random weights (time does not depend on them) is exported dense, at TAVT's default taper and at a steeper
one, with both scores, in f32, bf16 and int8, and switchable; the official-style model (``reference_step``: whole
attention maps, in torch) stands beside it. All are timed in one run, interleaved by rounds, and every ratio is paired
by rounds.

* share: (t_dense / t) / (MACs_dense / MACs), dense and dropped in the same runtime and precision, by the lean path;
* official: how many times faster than the official-style model run dense in torch f32;
* dense int8: how many times faster than dense int8 in the same runtime;
* switchable: time over that of the static file with the same counts.

Accuracy needs real weights: export a run at the same schedules and precisions, and the checks say what each costs (the
command is printed).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from reference_step import ReferenceViT

from tavt_kit.bench import Protocol, bench, random_images
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.measurement import Measurement, PairedRatio, paired_ratio
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.options import Int8Options
from tavt_kit.exporters.quantize import Examples, make_int8
from tavt_kit.exporters.to_onnx import save as save_onnx
from tavt_kit.exporters.to_onnx import to_onnx
from tavt_kit.exporters.to_openvino import convert, save
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tavt_kit.runtimes import open_file, open_module
from tavt_kit.runtimes.available import is_available

OFFICIAL = "official-style, torch f32, dense"
GOALS = {
    ("onnxruntime", "f32"): (0.98, 0.99), ("openvino", "f32"): (0.96, 0.97), ("openvino", "bf16"): (0.93, 0.94),
    ("openvino", "int8"): (0.87, 0.92),
}  # fmt: skip
"""Least shares with the scores column and cls."""


@dataclass(frozen=True)
class Row:
    """One candidate."""

    runtime: str
    precision: str
    score: str
    schedule: str
    switchable: bool = False

    @property
    def name(self) -> str:
        kind = ", switchable" if self.switchable else ""
        return f"{self.runtime} {self.precision}, {self.score}, {self.schedule}{kind}"

    @property
    def dense(self) -> Row:
        return replace(self, score="column", schedule="dense", switchable=False)


class Official(nn.Module):
    """The official-style model's logits alone."""

    def __init__(self, bare: nn.Module) -> None:
        super().__init__()
        self.model = ReferenceViT(bare)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images, None)[0]
        return logits


def main() -> None:
    given = arguments()
    torch.manual_seed(0)
    bare = timm.create_model(given.model, img_size=given.image_size, num_classes=200).eval()
    models = {score: wrap(bare, score) for score in ("column", "cls")}
    size = (given.image_size, given.image_size)
    images = random_images((1, 3, *size), np.random.default_rng(0))
    rows = [row for row in rows_of(given) if given.only in row.name]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = {row: file for row, file in written(rows, models, given, Path(folder))}
        sessions = {row.name: opened(row, files[row], models, given) for row in rows}
        reference = TargetDevice("torch", "cpu", threads=given.threads)
        sessions[OFFICIAL] = open_module(Official(bare).eval(), reference, images.shape)
        protocol = Protocol(min_seconds=given.min_seconds, max_seconds=given.max_seconds, min_runs=given.runs)
        found = bench(
            sessions, images, protocol, on_round=lambda spent, unsure: say(f"{spent:.0f} s, {len(unsure)} left")
        )
        table = [figures(row, found, models) for row in rows]
    show(table, found[OFFICIAL], given)
    given.out.mkdir(parents=True, exist_ok=True)
    record = {
        "host": HostFacts.gather().as_record(),
        "arguments": {name: str(value) for name, value in vars(given).items()},
        "official_ms": found[OFFICIAL].as_record(),
        "rows": table,
    }
    (given.out / "export_speed.json").write_text(json.dumps(record, indent=1))


def rows_of(given: argparse.Namespace) -> Iterator[Row]:
    """Dense once for each runtime and precision: with nothing to drop, both scores are the same graph.

    A precision that this CPU does not have is left out.
    """
    for runtime, precision in (*GOALS, ("onnxruntime", "int8")):
        if not is_available(TargetDevice(runtime, "cpu", precision=precision)):
            continue
        yield Row(runtime, precision, "column", "dense")
        for score in ("column", "cls"):
            yield Row(runtime, precision, score, f"taper:{given.taper}")
            if precision == "int8":
                yield Row(runtime, precision, score, f"taper:{given.steep}")
        if precision == "f32":
            yield Row(runtime, precision, "column", f"taper:{given.taper}", switchable=True)


def schedule_of(model: AdaptiveViT, text: str) -> TokenSchedule:
    return TokenSchedule.parse(text, model.layout)


def written(
    rows: list[Row], models: dict[str, AdaptiveViT], given: argparse.Namespace, folder: Path
) -> Iterator[tuple[Row, Path]]:
    """Each row's file; bf16 runs the f32 file."""
    noise = np.random.default_rng(1).standard_normal
    shape = (given.calibrate, 3, given.image_size, given.image_size)
    examples = Examples(noise(shape, np.float32), noise((0, *shape[1:]), np.float32), np.zeros(0, np.int64))
    known: dict[Row, Path] = {}
    for number, row in enumerate(rows):
        say(f"writing {row.name}")
        stored = replace(row, precision="f32") if row.precision == "bf16" else row
        if stored not in known:
            model = models[row.score]
            path = folder / f"{number}{'.onnx' if row.runtime == 'onnxruntime' else '.xml'}"
            write(model, card_of(row, model, given), path, examples if row.precision == "int8" else None)
            known[stored] = path
        yield row, known[stored]


def card_of(row: Row, model: AdaptiveViT, given: argparse.Namespace) -> ArtifactCard:
    preprocessing = Preprocessing((given.image_size, given.image_size)).as_record()
    classes = tuple(f"class {i}" for i in range(200))
    card = ModelCard("timm_vit", given.model, {}, classes, preprocessing, row.score)
    schedule = schedule_of(model, row.schedule)
    presets = {"fast": schedule, "dense": model.dense_schedule} if row.switchable else {}
    return ArtifactCard(card, schedule, model.tokens, model.prefix, presets=presets)


def write(model: AdaptiveViT, card: ArtifactCard, path: Path, examples: Examples | None) -> None:
    """In f32, or in int8 where there are examples."""
    how = Int8Options(smooth="on", quantizer="onnxruntime" if path.suffix == ".onnx" else "nncf")
    if path.suffix == ".onnx":
        to_onnx(model, card, path)
        if examples is not None:
            made, record = make_int8(onnx.load(str(path)), card, examples, how, Silent())
            save_onnx(made, card.quantized(record), path)
        return
    converted = convert(model, card)
    if examples is not None:
        converted, record = make_int8(converted, card, examples, how, Silent())
        card = card.quantized(record)
    save(converted, card, path)


def opened(row: Row, path: Path, models: dict[str, AdaptiveViT], given: argparse.Namespace) -> Any:
    lengths = schedule_of(models[row.score], row.schedule).counts if row.switchable else None
    return open_file(path, target_of(row, given), lengths)


def target_of(row: Row, given: argparse.Namespace) -> TargetDevice:
    precision = "bf16" if row.precision == "bf16" else "f32"
    return TargetDevice(row.runtime, "cpu", threads=given.threads, precision=precision)


def figures(row: Row, found: dict[str, Measurement], models: dict[str, AdaptiveViT]) -> dict[str, Any]:
    """The row's times and paired ratios; None where the run did not measure the other side."""
    mine = found[row.name]
    model = models[row.score]
    macs = {text: count_macs(model, schedule_of(model, text)) for text in (row.schedule, "dense")}

    def against(name: str) -> PairedRatio | None:
        return paired_ratio(found[name], mine) if name in found and name != row.name else None

    gain, goals = macs["dense"] / macs[row.schedule], GOALS.get((row.runtime, row.precision))
    dense = against(row.dense.name)
    static = None if not row.switchable else against(replace(row, switchable=False).name)
    int8 = replace(row.dense, precision="int8").name if row.precision == "int8" else row.name
    return {
        "name": row.name,
        "milliseconds": mine.as_record(),
        "gmacs": macs[row.schedule] / 1e9,
        "dense_over": record(dense),
        "share": None if dense is None else record(scaled(dense, 1 / gain)),
        "goal": None if goals is None or dense is None else goals[row.score == "cls"],
        "official_over": record(against(OFFICIAL)),
        "dense_int8_over": record(against(int8)),
        "switchable_over_static": None if static is None else 1 / static.value,
    }  # fmt: skip


def scaled(ratio: PairedRatio, factor: float) -> PairedRatio:
    return PairedRatio(factor * ratio.value, factor * ratio.low, factor * ratio.high, ratio.n)


def record(ratio: PairedRatio | None) -> dict[str, float] | None:
    return None if ratio is None else ratio.as_record()


def show(table: list[dict[str, Any]], official: Measurement, given: argparse.Namespace) -> None:
    print(f"{given.model} at {given.image_size} px, batch 1, {given.threads} threads; {HostFacts.gather()}")
    print(f"{OFFICIAL}: {official}\n")
    print(
        "| candidate | ms | GMACs | share of the gain | goal | official over | dense int8 over "
        "| switchable over static |"
    )
    print("|---|---|---|---|---|---|---|---|")
    percent: Callable[[float], str] = lambda share: f"{100 * share:.1f} %"  # noqa: E731
    times: Callable[[float], str] = lambda ratio: f"{ratio:.2f}x"  # noqa: E731
    for row in table:
        cells = [
            cell(row["share"], percent),
            "" if row["goal"] is None else percent(row["goal"]),
            cell(row["official_over"], times),
            cell(row["dense_int8_over"], times),
            "" if row["switchable_over_static"] is None else times(row["switchable_over_static"]),
        ]
        steady = "" if row["milliseconds"]["steady"] else " (unsteady)"
        ms = f"{row['milliseconds']['median']:.1f}{steady}"
        print(f"| {row['name']} | {ms} | {row['gmacs']:.1f} | {' | '.join(cells)} |")
    schedules = " ".join(f"--schedule {text}" for text in ("dense", f"taper:{given.taper}", f"taper:{given.steep}"))
    print(f"\naccuracy: fgvc-kit export RUN {schedules} --format onnx,openvino --precision f32,int8")


def cell(ratio: dict[str, float] | None, text: Callable[[float], str]) -> str:
    return "" if ratio is None else f"{text(ratio['value'])} [{text(ratio['low'])}, {text(ratio['high'])}]"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--taper", type=float, default=0.2)
    parser.add_argument("--steep", type=float, default=0.4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibrate", type=int, default=10, help="random images; of no use for accuracy")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--min-seconds", type=float, default=3.0)
    parser.add_argument("--max-seconds", type=float, default=90.0)
    parser.add_argument("--only", default="", help="measure the candidates whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("runs/export-speed"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
