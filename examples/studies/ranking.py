"""By what should schedules of one network be ranked on ``val``: answers, labelled loss, or divergence from dense?

    python examples/studies/proof.py --out runs/proof --only elpv-0 --only emoji-0 --only start --step train
    python examples/studies/ranking.py --out runs/proof --place elpv-0 --place emoji-0

So many random schedules that merge, all within two points of the same share of multiply-adds, answer ``val`` and
``test``. Samples of ``val`` then choose one of them by each rule; what it has on ``test``, against the mean of all,
says how good the rule is. ``oracle`` is the best on ``test``. The network is one that never learned to lose tokens
(``start`` of ``proof.py``). Writes ``ranking.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checkpoints import load_model
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import atomic_text
from tavt_kit.core.schedule import Curve, TokenSchedule, shares_to_counts
from tavt_kit.data import load_bytes, load_images
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.models.flops import count_macs
from tavt_kit.models.wrap import AdaptiveViT

Answers = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Log-probabilities (schedules + 1, n, classes), the dense network's first, and labels (n,)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of proof.py")
    parser.add_argument("--place", action="append", required=True, help="a set's fold or seed, such as elpv-0; repeat")
    parser.add_argument("--schedules", type=int, default=24)
    parser.add_argument("--share", type=float, default=0.6, help="of the dense network's multiply-adds")
    parser.add_argument("--samples", type=int, default=2_000, help="of val, for each number of images")
    given = parser.parse_args()
    places = [row for place in given.place for row in rows_of(given, place)]
    asked = {key: value for key, value in vars(given).items() if key != "out"}
    record = {"study": "ranking", "asked": asked, "host": HostFacts.gather().as_record(), "rows": places}
    atomic_text(given.out / "ranking.json", json.dumps(record, indent=1) + "\n")
    for row in places:
        print(json.dumps(row))


def rows_of(given: argparse.Namespace, place: str) -> list[dict[str, Any]]:
    """For each number of images of val: what each rule's choice has on test, in points above the mean schedule."""
    kept = given.out / place / f"ranking-{given.share:g}.npz"
    if not kept.is_file():
        np.savez(kept, **answered(given, place))
    with np.load(kept) as stored:
        (val, labels), (test, truth) = ((stored[split], stored[f"{split}-labels"]) for split in ("val", "test"))
    quality = {name: rule(val, labels) for name, rule in RULES.items()}
    top1 = 100 * (test[1:].argmax(2) == truth).mean(1)
    draws, rows = np.random.default_rng(0), []
    for images in (100, 200, len(labels)):
        chosen: dict[str, list[float]] = {name: [] for name in RULES}
        for _ in range(given.samples):
            sample = draws.integers(0, len(labels), images)
            for name, each in quality.items():
                mean = each[:, sample].mean(1)
                best = np.flatnonzero(mean == mean.max())
                chosen[name].append(float(top1[best].mean()))  # of equals any
        rows.append({
            "place": place, "images": images, "schedules": len(top1), "mean_top1": float(top1.mean()),
            "oracle": float(top1.max() - top1.mean()),
            "rules": {name: float(np.mean(values) - top1.mean()) for name, values in chosen.items()},
        })  # fmt: skip
    return rows


RULES: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]] = {
    "top1": lambda logs, labels: (logs[1:].argmax(2) == labels).astype(float),
    "loss": lambda logs, labels: logs[1:, np.arange(len(labels)), labels],
    "agreement": lambda logs, labels: (logs[1:].argmax(2) == logs[0].argmax(1)).astype(float),
    "divergence": lambda logs, labels: -(np.exp(logs[0]) * (logs[0] - logs[1:])).sum(2),
}
"""How good each schedule is on each image: (schedules, n), more is better."""


def answered(given: argparse.Namespace, place: str) -> dict[str, NDArray[Any]]:
    model = load_model(given.out / place / "start")
    model.reduction = "merge"
    schedules = [model.dense_schedule, *drawn(model, given.schedules, given.share)]
    images, how = (
        load_images(str(given.out / place / "list.csv")),
        Preprocessing.from_record(model.require_card().preprocessing),
    )
    found: dict[str, NDArray[Any]] = {}
    for split in ("val", "test"):
        pixels, labels, _ = load_bytes(images.split(split), how)
        evaluator = Evaluator(model, pixels, labels, how, split=split)
        logits = [evaluator.logits(schedule).double().log_softmax(1).numpy() for schedule in schedules]
        found |= {split: np.stack(logits), f"{split}-labels": labels}
    return found


def drawn(model: AdaptiveViT, count: int, share: float) -> list[TokenSchedule]:
    """Different random curves near a share of the multiply-adds."""
    draws, dense, found = np.random.default_rng(0), count_macs(model, model.dense_schedule), dict[str, TokenSchedule]()
    while len(found) < count:
        curve = Curve.drawn(
            model.layers,
            model.tokens - model.prefix,
            lambda low, high: int(draws.integers(low, high + 1)),
            draws.random,
        )
        schedule = TokenSchedule(shares_to_counts(curve.shares(model.layers), model.tokens, model.prefix))
        if abs(count_macs(model, schedule) / dense - share) <= 0.02:
            found[str(schedule)] = schedule
    return list(found.values())


if __name__ == "__main__":
    main()
