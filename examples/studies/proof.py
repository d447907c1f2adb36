"""Is what the kit makes more accurate at equal time than what a user could do instead? One grid of trainings, paired.

    python examples/studies/proof.py --out runs/proof --data emoji=emoji/list.csv --only elpv --only emoji
    python examples/studies/proof.py --out runs/proof --only elpv-0 --only ours-merge    # a part; the rest stays open
    python examples/studies/proof.py --out runs/proof --step report    # of what was answered so far, on any machine
    python examples/studies/proof.py --out runs/proof --step latency --target openvino:cpu:threads=2
    python examples/studies/proof.py --out runs/proof-224 --size 224 --only elpv-0 --only elpv-1

``proof.toml`` beside this file is the grid: the sets, the commands that train each network, and what each is asked.
All networks begin with one fine-tune and are trained for as many steps more. They answer ``val`` and ``test`` in f32 by
torch and in int8 by OpenVINO, with one way of quantizing. Which images are right is written at once to
``results/proof-answers/SIZE/PLACE.json`` (``--answers``), with the machine, hashes of the images and of the commands.
So the grid is completed in pieces, on several machines: what is answered there is neither trained nor opened again,
unless something that is missing begins with it. Answers of other commands are made anew; of other images, refused.

``--step latency`` times each architecture once, all files interleaved and each alone, and keeps that for each kind of
CPU in ``latency.json`` beside the answers; leave the machine alone then. The report (``proof_goals.py``) prints the
table and the goals from whatever is there, and writes ``proof.json``; it takes the times of this CPU, of the only one
that was timed, or of ``--times``; without any it compares by multiply-adds, and says so. ``--step train`` trains what
is answered, too. What the table asks of the first fold alone ``--full`` asks everywhere.

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
import os
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
from numpy.typing import NDArray
from proof_goals import Row, report

from tavt_kit.checkpoints import load_model
from tavt_kit.checks import Artifact
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.host import HostFacts
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
    parser.add_argument("--answers", type=Path, default=Path(__file__).parent / "results" / "proof-answers")
    parser.add_argument("--times", help="part of a CPU's name: report the times of that one")
    parser.set_defaults(made=set())
    given = parser.parse_args()
    given.data = dict(each.split("=", 1) for each in given.data)
    table = tomllib.loads(given.table.read_text(encoding="utf-8"))
    steps = given.step or ["answer", "report"]
    for place in places(given, table):
        if "answer" in steps and (place.name in given.data or (place.folder / "list.csv").is_file()):
            listed(given, table, place)
        for name, network in chosen(given, table, place):
            if "train" in steps:
                train(given, table, place, name)
            if "answer" in steps:
                answer(given, table, place, name, network)
    if "latency" in steps:
        latency(given, table)
    if "report" in steps:
        report(given.out, given.size, table, rows_of(given, table), times_of(given))


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


def train(given: argparse.Namespace, table: Mapping[str, Any], place: Place, name: str) -> None:
    """Run a network's commands, after those of the networks that it begins with; a finished one is soon through."""
    if place.folder / name not in given.made:
        listed(given, table, place)
        for other in needs(table, name):
            train(given, table, place, other)
        for command in commands(given, table, place, name, place.folder):
            run(*shlex.split(command))
        given.made.add(place.folder / name)


def listed(given: argparse.Namespace, table: Mapping[str, Any], place: Place) -> ImageSet:
    """The images of a place, of which its answers must be."""
    about, data = table["sets"][place.name], place.folder / "list.csv"
    if not data.is_file():
        images = load_images(given.data.get(place.name, about.get("data", place.name)), seed=place.number)
        if about.get("folds"):
            fold_list(images, place.folder, place.number, about["numbers"], table["val"])
        else:
            write_list(images, place.folder, about.get("limit"))
    images = load_images(str(data))
    if kept(given, place)["images"] not in ({}, known(images)):
        raise SystemExit(f"{data} lists other images than {kept_in(given, place)} answers: give another --answers")
    return images


def known(images: ImageSet) -> dict[str, Any]:
    """What is kept of a list of images, wherever it lies: a hash, and the images of test by hashes of their names."""
    samples = [(split, sample) for split in images.splits for sample in images.split(split)]
    root = os.path.commonpath([sample.path for _, sample in samples])
    names = [
        (split, sample.path.relative_to(root).as_posix(), images.classes[sample.label]) for split, sample in samples
    ]
    test = "".join(sha256_text(name)[:8] for split, name, _ in names if split == "test")
    return {"sha256": sha256_text(json.dumps(names)), "val": len(images.split("val")), "test": test}


def needs(table: Mapping[str, Any], name: str) -> list[str]:
    """The networks whose weights one begins with."""
    network = table["networks"][name]
    others = re.findall(r"{folder}/([\w-]+)", " ".join(network.get("run", ())))
    return [] if name == "start" else ["start", *others, *([network["of"]] if "of" in network else [])]


def commands(given: argparse.Namespace, table: Mapping[str, Any], place: Place, name: str, folder: Path) -> list[str]:
    """Those that train a network where its place lies in ``folder``."""
    words: dict[str, Any] = {f"s{eighths}": given.size * eighths // 8 for eighths in range(1, 9)}
    words |= {"start": folder / "start", "out": folder / name, "data": folder / "list.csv", "folder": folder}
    words |= {"seed": place.number, "augment": table["sets"][place.name]["augment"]}
    for text in ("learn", "tune"):
        words[text] = table[text].format(**words)
    run = [table["begin"]] if name == "start" else table["networks"][name].get("run", [])
    return [" ".join(command.format(**words).split()) for command in run]


def made_by(given: argparse.Namespace, table: Mapping[str, Any], place: Place, name: str) -> str:
    """A hash of all that the table says of how a network is made, and those that it begins with."""
    others = [made_by(given, table, place, other) for other in needs(table, name)]
    own = commands(given, table, place, name, Path()), table["networks"][name].get("reduction"), table["calibrate"]
    return sha256_text(json.dumps([*own, *others]))[:12]


def kept_in(given: argparse.Namespace, place: Place) -> Path:
    return Path(given.answers, str(given.size), f"{place.name}-{place.number}.json")


def kept(given: argparse.Namespace, place: Place) -> dict[str, Any]:
    """The record of a place: its images, the machines, and the answers of each network."""
    file = kept_in(given, place)
    return json.loads(file.read_text()) if file.is_file() else {"images": {}, "hosts": {}, "answers": {}}


def keep(file: Path, record: Mapping[str, Any]) -> None:
    """Write a record, each answer in a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(file, re.sub(r"\n {4,}", " ", json.dumps(record, indent=1)) + "\n")


def answer(
    given: argparse.Namespace, table: Mapping[str, Any], place: Place, name: str, network: Mapping[str, Any]
) -> None:
    """Which images of ``val`` and ``test`` a network has right, as often as it is asked in the table."""
    made = made_by(given, table, place, name)
    for eighths, schedules in network["ask"].items():
        size = given.size * int(eighths) // 8
        for schedule in schedules:
            for precision in given.precision or table.get("precisions", ["f32", "int8"]):
                key = f"{size} {schedule} {precision}"
                if kept(given, place)["answers"].get(name, {}).get(key, {}).get("made_by") != made:
                    train(given, table, place, name)
                    images, model = listed(given, table, place), opened(place.folder, name, network, size)
                    found = _asked(model, place.folder / name, images, schedule, precision, table["calibrate"])
                    host = HostFacts.gather().as_record()
                    found |= {"made_by": made, "date": host["date"][:10]}
                    host = {part: host[part] for part in ("cpu", "flags", "cores", "os", "python", "packages")}
                    found["host"] = sha256_text(json.dumps(host))[:8]
                    record = kept(given, place)  # what another process wrote meanwhile stays
                    record["images"] = known(images)
                    record["hosts"][found["host"]] = host
                    record["answers"].setdefault(name, {})[key] = found
                    keep(kept_in(given, place), record)


def opened(folder: Path, name: str, network: Mapping[str, Any], size: int) -> AdaptiveViT:
    """A network at an image size; one that is ``of`` another has its weights, and its own reduction."""
    model = load_model(folder / network.get("of", name), image_size=size)
    model.reduction = network.get("reduction", model.reduction)
    return model


def _asked(
    model: AdaptiveViT, folder: Path, images: ImageSet, text: str, precision: str, calibrate: int
) -> dict[str, Any]:
    """The answers under one schedule, as the bits of hexadecimal texts, and what is to be known of it."""
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
        bits[split] = np.packbits(right).tobytes().hex()
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
    there = {place.folder: place for place in places(given, table)}

    def file_of(row: Row) -> Path:
        size, text, precision = row.key.split(" ")
        return row.folder / row.network / "files" / Form("openvino", precision, label_of(size, text)).file

    def is_far(row: Row) -> tuple[bool, bool]:
        weights = row.folder / table["networks"][row.network].get("of", row.network)
        return not file_of(row).is_file(), not weights.is_dir()

    for row in sorted(rows_of(given, table), key=is_far):  # what is not on this machine must be trained to be timed
        size, text, precision = row.key.split(" ")
        wanted = row.is_dense or precision in (given.precision or ["f32", "int8"])
        if wanted and row.architecture not in files:
            if not file_of(row).is_file():
                train(given, table, there[row.folder], row.network)
                model = opened(row.folder, row.network, table["networks"][row.network], int(size))
                images = listed(given, table, there[row.folder])
                write_file(model, row.folder / row.network, images, text, precision, table["calibrate"])
            files[row.architecture] = file_of(row)
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
    new = {"target": given.target, "batch": 1, "host": together.record["host"], "ms": body}
    others = [one for one in timed(given) if _machine(one) != _machine(new)]
    keep(given.answers / str(given.size) / "latency.json", {"machines": [*others, new]})


def timed(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The times of each kind of CPU and target."""
    file = given.answers / str(given.size) / "latency.json"
    return json.loads(file.read_text())["machines"] if file.is_file() else []


def _machine(times: Mapping[str, Any]) -> tuple[str, ...]:
    return times["target"], times["host"]["cpu"], *times["host"]["flags"]


def times_of(given: argparse.Namespace) -> dict[str, Any] | None:
    """The times to report: of the CPU that was asked for, else of this one, else of the only one."""
    every, here = timed(given), HostFacts.gather().as_record()
    if given.times is not None:
        fits = [one for one in every if given.times in one["host"]["cpu"]]
        if not fits:
            raise SystemExit(f"no times of a CPU {given.times!r} in {given.answers}: leave --times out")
    else:
        fits = [one for one in every if _machine(one)[1:] == (here["cpu"], *here["flags"])]
        fits = fits or (every if len(every) == 1 else [])
    return next((one for one in fits if one["target"] == given.target), fits[-1] if fits else None)


def rows_of(given: argparse.Namespace, table: Mapping[str, Any]) -> list[Row]:
    """Whatever was answered by networks that today's commands make."""
    rows = []
    for place in places(given, table):
        record = kept(given, place)
        for name, network in chosen(given, table, place):
            made = made_by(given, table, place, name)
            for key, one in record["answers"].get(name, {}).items():
                if one["made_by"] != made:
                    print(f"{kept_in(given, place)}: {name} {key} is of other commands: left out", file=sys.stderr)
                    continue
                # A head of other classes hardly takes time: one architecture to the million of multiply-adds.
                architecture = re.sub(r"of (\d+)", lambda macs: f"of {int(macs[1]) / 1e6:.0f}M", one["architecture"])
                about = one["macs"], one["reduced"], architecture
                images = tuple(re.findall("." * 8, record["images"]["test"]))
                val, test = _bits(one["val"], record["images"]["val"]), _bits(one["test"], len(images))
                host = {**record["hosts"][one["host"]], "date": one["date"]}
                rows.append(Row(place.name, place.folder, name, network["kind"], key, *about, val, test, images, host))
    return rows


def _bits(text: str, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)


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
