"""Is what the kit makes more accurate at equal time than what a user could do instead? Twelve trainings a set, paired.

    python examples/studies/proof.py --out runs/proof --data fashion=timm:torch/fashion_mnist:DIR --data emoji=DIR
    python examples/studies/proof.py --out runs/proof --only elpv-0 --only ours-merge    # a part; the rest stays open
    python examples/studies/proof.py --out runs/proof --step latency --target openvino:cpu:threads=2
    python examples/studies/proof.py --out runs/proof-224 --size 224 --only elpv-0 --only elpv-1

``proof.toml`` beside this file is the grid: the sets, the commands that train each network, and what each is asked.
All networks begin with one fine-tune and are trained for as many steps more. They answer ``val`` and ``test`` in f32 by
torch and in int8 by OpenVINO, with one way of quantizing; which images are right is kept in each network's
``answers.json``. ``--step latency`` times each architecture once, all files interleaved and each alone; leave the
machine alone then. The report (``proof_goals.py``) prints the table and the goals from whatever is there, and writes
``proof.json``; without latencies it compares by multiply-adds, and says so. The same command goes on where it was
interrupted. What the table asks of the first fold alone ``--full`` asks everywhere.

"Ours" reduces tokens: one network for all budgets, or what was fine-tuned for one size, its tokens merged without
more training. "The best other" fits the budget; "dense" is the best dense fine-tune at the full size in f32. Each is
chosen on ``val``, never on ``test``. Differences are means over the images of a set (an image that several seeds were
asked is one), then over sets with equal weight; intervals are 95 %, normal, of images alone: what another seed of
training would give is not in them.

The kit has no bipartite matching (ToMe), no fused token (EViT), no random choice of tokens and no learned exits: rows
of these are not here. "every-layer" takes tokens where ToMe does, by the kit's own merging.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from proof_goals import Row, report

from tavt_kit.checkpoints import load_model
from tavt_kit.checks import Artifact
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.records import atomic_text, sha256_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, load_bytes, load_images, thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.exporters.options import Form, Int8Options, Plan
from tavt_kit.exporters.writer import Writer
from tavt_kit.models.flops import count_macs
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.workflows.baselines import session_logits
from tavt_kit.workflows.bench import bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--data", action="append", default=[], help="NAME=WHERE a set lies; repeat")
    parser.add_argument("--only", action="append", default=[], help="a set, a set's fold such as elpv-0, or a network")
    parser.add_argument("--step", action="append", choices=["train", "answer", "latency", "report"], help="repeat")
    parser.add_argument(
        "--precision", action="append", choices=["f32", "int8"], help="of the answers and, dense apart, the times"
    )
    parser.add_argument("--size", type=int, default=112, help="pixels a side, eight patches or a multiple of them")
    parser.add_argument("--target", default="openvino:cpu:threads=1")
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    table = tomllib.loads(given.table.read_text(encoding="utf-8"))
    steps = given.step or ["train", "answer", "report"]
    for place in places(given, table):
        for name, network in chosen(given, table, place):
            if "train" in steps:
                train(given, table, place, name, network)
            if "answer" in steps:
                answer(given, table, place, name, network)
    if "latency" in steps:
        latency(given, table)
    if "report" in steps:
        report(given.out, given.size, table, rows_of(given, table))


@dataclass(frozen=True)
class Place:
    """A set at one fold or seed.

    Args:
        name: The set's.
        number: Fold, or seed.
        folder: Of its runs.
        is_first: Whether it is the first fold of the first set.
    """

    name: str
    number: int
    folder: Path
    is_first: bool


def places(given: argparse.Namespace, table: Mapping[str, Any]) -> Iterator[Place]:
    wanted = {each.partition("-")[0] for each in given.only} & set(table["sets"]) or set(table["sets"])
    for index, (name, about) in enumerate(table["sets"].items()):
        for number in range(about["numbers"]):
            exactly = [each for each in given.only if each.startswith(f"{name}-")]
            if name in wanted and (not exactly or f"{name}-{number}" in exactly):
                yield Place(name, number, given.out / f"{name}-{number}", index == number == 0)


def chosen(
    given: argparse.Namespace, table: Mapping[str, Any], place: Place
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    wanted = set(given.only) & set(table["networks"])
    for name, network in table["networks"].items():
        if (not wanted or name in wanted) and (given.full or place.is_first or not network.get("first")):
            yield name, network


def train(
    given: argparse.Namespace, table: Mapping[str, Any], place: Place, name: str, network: Mapping[str, Any]
) -> None:
    """Run a network's commands, after those of the fine-tune that it begins with."""
    about, data = table["sets"][place.name], place.folder / "list.csv"
    if not data.is_file():
        where = dict(each.split("=", 1) for each in given.data).get(place.name, about.get("data", place.name))
        images = load_images(where, seed=place.number)
        if about.get("folds"):
            fold_list(images, place.folder, place.number, about["numbers"], table["val"])
        else:
            write_list(images, place.folder, about.get("limit"))
    words = {f"s{eighths}": given.size * eighths // 8 for eighths in range(1, 9)}
    words |= {
        "start": place.folder / "start",
        "out": place.folder / name,
        "data": data,
        "folder": place.folder,
        "seed": place.number,
    }
    words |= {"augment": about["augment"]}
    words |= {"learn": table["learn"].format(**words)}
    words |= {"tune": table["tune"].format(**words)}
    first = [] if (place.folder / "start" / "model.safetensors").is_file() else [table["begin"]]
    for command in [*first, *network.get("run", [])]:
        run(*shlex.split(command.format(**words)))


def answer(
    given: argparse.Namespace, table: Mapping[str, Any], place: Place, name: str, network: Mapping[str, Any]
) -> None:
    """Which images of ``val`` and ``test`` a network has right, as often as it is asked in the table."""
    folder = place.folder / name
    file = folder / "answers.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    images = load_images(str(place.folder / "list.csv"))
    for eighths, schedules in network["ask"].items():
        size = given.size * int(eighths) // 8
        for schedule in schedules:
            for precision in given.precision or table.get("precisions", ["f32", "int8"]):
                key = f"{size} {schedule} {precision}"
                if key not in found:
                    model = opened(place.folder, name, network, size)
                    found[key] = _asked(model, folder, images, schedule, precision, table["calibrate"])
                    folder.mkdir(exist_ok=True)
                    atomic_text(file, json.dumps(found, indent=1) + "\n")


def opened(folder: Path, name: str, network: Mapping[str, Any], size: int) -> AdaptiveViT:
    """A network at an image size; one that is ``of`` another has its weights, and its own reduction."""
    model = load_model(folder / network.get("of", name), image_size=size)
    model.reduction = network.get("reduction", model.reduction)
    return model


def _asked(
    model: AdaptiveViT, folder: Path, images: ImageSet, text: str, precision: str, calibrate: int
) -> dict[str, Any]:
    """The answers under one schedule, as texts of 0 and 1, and what is to be known of it."""
    how = Preprocessing.from_record(model.require_card().preprocessing)
    schedule = TokenSchedule.parse(text, model.layout)
    bits = {}
    if precision == "int8":
        written = write_file(model, folder, images, text, "int8", calibrate)
    for split in ("val", "test"):
        pixels, labels = load_bytes(images.split(split), how)
        if precision == "int8":
            right = session_logits(written.session, how)(pixels, labels).argmax(1) == labels
        else:
            right = Evaluator(model, pixels, labels, how, split=split).correct(schedule)
        bits[split] = "".join("01"[bit] for bit in right.tolist())
    reduced = not schedule.is_dense(model.tokens)
    how_so = f" {model.reduction} {model.score}" if reduced else ""
    macs = count_macs(model, schedule)
    return {**bits, "macs": macs, "reduced": reduced, "architecture": f"{schedule} of {macs} {precision}{how_so}"}


def write_file(
    model: AdaptiveViT, folder: Path, images: ImageSet, text: str, precision: str, calibrate: int
) -> Artifact:
    """The OpenVINO file of a schedule, in the network's folder."""
    label = label_of(model.backbone.image_size[1], text)
    plan = Plan(calibrate=calibrate, int8=Int8Options("nncf", "off"))
    writer = Writer(model, {label: TokenSchedule.parse(text, model.layout)}, images, plan)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    return writer.write(Form("openvino", precision, label), folder / "files")


def label_of(size: int | str, schedule: str) -> str:
    return f"{size}-{schedule}".replace(":", "-").replace(",", "-")


def latency(given: argparse.Namespace, table: Mapping[str, Any]) -> None:
    """Each architecture that was asked, once: all in one interleaved run, and each alone."""
    files: dict[str, Path] = {}
    for row in rows_of(given, table):
        wanted = row.is_dense or (given.precision or ["f32", "int8"]).count(row.key.rpartition(" ")[2])
        if wanted and row.architecture not in files:
            size, text, precision = row.key.split(" ")
            images = load_images(str(row.folder / "list.csv"))
            path = row.folder / row.network / "files" / Form("openvino", precision, label_of(size, text)).file
            if not path.is_file():
                model = opened(row.folder, row.network, table["networks"][row.network], int(size))
                write_file(model, row.folder / row.network, images, text, precision, table["calibrate"])
            files[row.architecture] = path
    together = bench(list(files.values()), target=given.target, max_time="6s", out=given.out / "latency")
    alone = {
        name: bench(
            path, target=given.target, max_time="3s", out=given.out / "latency" / "alone" / sha256_text(name)[:8]
        )
        for name, path in files.items()
    }
    body = {
        name: {"p90": shared["latency_ms"]["p90"], "median": shared["latency_ms"]["median"],
               "alone": alone[name].record["candidates"][0]["latency_ms"]["median"]}
        for name, shared in zip(files, together.record["candidates"], strict=True)
    }  # fmt: skip
    host = together.record["host"]
    record = {"target": given.target, "batch": 1, "host": host, "ms": body}
    atomic_text(given.out / "latency.json", json.dumps(record, indent=1) + "\n")


def rows_of(given: argparse.Namespace, table: Mapping[str, Any]) -> list[Row]:
    """Whatever was answered."""
    rows = []
    for place in places(given, table):
        for name, network in chosen(given, table, place):
            file = place.folder / name / "answers.json"
            for key, one in (json.loads(file.read_text()) if file.is_file() else {}).items():
                val, test = (np.array(list(one[split]), int).astype(bool) for split in ("val", "test"))
                # A head of other classes hardly takes time: one architecture to the million of multiply-adds.
                architecture = re.sub(r"of (\d+)", lambda macs: f"of {int(macs[1]) / 1e6:.0f}M", one["architecture"])
                about = one["macs"], one["reduced"], architecture
                rows.append(Row(place.name, place.folder, name, network["kind"], key, *about, val, test))
    return rows


def fold_list(images: ImageSet, place: Path, number: int, folds: int, val: float = 0.1) -> Path:
    """A CSV list: of each class, in the order of a hash, one image of ``folds`` is test, a share of the rest is val."""
    everything = [sample for part in images.splits for sample in images.split(part)]
    rows = []
    for label, name in enumerate(images.classes):
        paths = [sample.path for sample in everything if sample.label == label]
        paths.sort(key=lambda path: sha256_text(path.relative_to(images.root).as_posix()))
        rest = [path for index, path in enumerate(paths) if index % folds != number]
        held = rest[: max(1, round(val * len(rest)))]
        for index, path in enumerate(paths):
            split = "test" if index % folds == number else "val" if path in held else "train"
            rows.append((str(path), name, split))
    return _written(place, rows)


def write_list(images: ImageSet, place: Path, limit: int | None) -> Path:
    """A CSV list of the set's own splits, at most so many images of each."""
    return _written(
        place,
        [
            (str(sample.path), images.classes[sample.label], split)
            for split in images.splits
            for sample in thin_out(images.split(split), limit)
        ],
    )


def _written(place: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    with (place / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return place / "list.csv"


def run(*words: object) -> None:
    """A command of the kit."""
    print("fgvc-kit", *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "tavt_kit", *map(str, words)], check=True, stdout=2)


def points(difference: PairedDifference) -> str:
    value, low, high = (100 * share for share in (difference.difference, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
