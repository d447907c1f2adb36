"""The table and the goals of ``proof.py``, from which test images each network has right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.records import atomic_text

Bits = NDArray[np.bool_]
Change = tuple[float, float, float]
"""A difference in points with its interval."""


@dataclass(frozen=True, eq=False)
class Row:
    """A network's answers under one schedule, on one fold or seed of a set.

    Args:
        set: Name of the set.
        folder: Folder of the fold.
        network: Name of the network.
        kind: Kind in the table.
        key: Image size, schedule and precision.
        macs: Multiply-adds.
        reduced: Whether tokens leave.
        architecture: Networks of one architecture take the same time.
        val: Right answers.
        test: Likewise.
        images: Of ``test``; the same text is the same image in another fold or seed of the set.
        host: The machine that answered, and when.
    """

    set: str
    folder: Path
    network: str
    kind: str
    key: str
    macs: int
    reduced: bool
    architecture: str
    val: Bits
    test: Bits
    images: tuple[str, ...]
    host: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.network} {self.key}"

    @property
    def is_dense(self) -> bool:
        return self.kind == "dense" and self.key.endswith("f32")

    @property
    def is_ours(self) -> bool:
        return self.kind == "ours" and self.reduced


def best(rows: Sequence[Row]) -> Row:
    """Of most right answers on ``val``; of equals the cheapest."""
    return max(rows, key=lambda row: (row.val.mean(), -row.macs))


def report(
    out: Path, size: int, table: Mapping[str, Any], rows: Sequence[Row], times: Mapping[str, Any] | None
) -> None:
    """Print the table and the goals, and write the record."""
    folds = [list(found) for _, found in groupby(rows, key=lambda row: row.folder)]
    folds = [found for found in folds if any(row.is_dense for row in found)]
    if not folds:
        raise SystemExit("no dense network was answered in f32 yet, so there is nothing to report")
    dense = {found[0].folder: best([row for row in found if row.is_dense]) for found in folds}
    host = times["host"] if times else rows[-1].host
    hosts = [row.host for found in folds for row in found]
    print(f"Answers on {machines(hosts)}; times on {machines([times['host']]) if times else 'none'}.\n")
    print("| network | size, schedule, precision | GMACs | ms | val, % | test, % | against dense, points |")
    print("|---|---|---|---|---|---|---|")
    listed = []
    for name in dict.fromkeys(row.name for found in folds for row in found):
        same = [row for found in folds for row in found if row.name == name]
        first, apart = same[0], difference([(dense[row.folder], row) for row in same])
        right = {split: np.concatenate([getattr(row, split) for row in same]) for split in ("val", "test")}
        ms = None if times is None else times["ms"].get(first.architecture)
        shares = " | ".join(f"{100 * bits.mean():.1f}" for bits in right.values())
        median = "" if ms is None else f"{ms['median']:.2f}"
        print(f"| {first.network} | {first.key} | {first.macs / 1e9:.2f} | {median} | {shares} | {interval(apart)} |")
        accuracy = {
            split: Accuracy.of_counts(int(bits.sum()), len(bits), split=split).as_record()
            for split, bits in right.items()
        }
        about = {"network": first.network, "kind": first.kind, "asked": first.key, "macs": first.macs, "ms": ms}
        listed.append({**about, "on": [row.folder.name for row in same], **accuracy, "against_dense": apart})
    goals = list(judged(table, folds, dense, times))
    for one in goals:
        said = f"{interval(one['points'])}, {one['verdict']}" if one["points"] else one["verdict"]
        print("\n  ".join((f"\n{one['goal']}: {said}", *one["chosen"])))
    body = {
        "study": "proof", "size": size, "device": "cpu", "answers": "f32 by torch, int8 by OpenVINO", "batch": 1,
        "target": None if times is None else times["target"], "host": host,
        "answered": machines(hosts), "table": table,
        "dense": {folder.name: row.name for folder, row in dense.items()}, "rows": listed, "goals": goals,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    atomic_text(out / "proof.json", json.dumps(body, indent=1) + "\n")


def judged(
    table: Mapping[str, Any],
    folds: Sequence[Sequence[Row]],
    dense: Mapping[Path, Row],
    times: Mapping[str, Any] | None,
) -> Iterator[dict[str, Any]]:
    """What was aimed at, and what came of it; where times are known, (a) and (d) choose among what was timed."""
    timed = [[row for row in found if times is None or row.architecture in times["ms"]] for found in folds]

    def cost(row: Row) -> float:
        return float(row.macs if times is None else times["ms"][row.architecture]["p90"])

    above = set[str]()
    for share in table["budgets_macs" if times is None else "budgets"]:
        pairs = []
        for found in timed:
            limit = share * cost(dense[found[0].folder])
            fits = [row for row in found if cost(row) <= limit and (times is not None or row.key.endswith("int8"))]
            ours, others = [row for row in fits if row.is_ours], [row for row in fits if row.kind in ("dense", "other")]
            pairs += [(best(others), best(ours))] if ours and others else []
        limit_of = "multiply-adds, int8 against int8" if times is None else "p90"
        name = f"(a) ours against the best other at {share:.0%} of dense's {limit_of}"
        found_here = goal(name, pairs, lambda mean, sets: mean[1] > -0.5 and all(one[2] >= 0 for one in sets))
        above |= {name for name, one in found_here["sets"].items() if one[1] > 0}
        yield found_here
    half = len({found[0].set for found in folds}) / 2
    verdict = f"{'met' if len(above) >= half > 0 else 'missed'}: {len(above)} sets, {half:g} asked"
    yield {"goal": "(a) wholly above 0 at one budget", "points": None, "sets": {}, "chosen": [], "verdict": verdict}
    pairs = []
    for found in folds:
        whole = dense[found[0].folder]
        fits = [
            row for row in found if row.is_ours and row.key.endswith("f32") and table["fewer"] * row.macs <= whole.macs
        ]
        pairs += [(whole, best(fits))] if fits else []
    yield goal(f"(b) ours with {table['fewer']:g} times fewer multiply-adds against dense, f32", pairs,
               lambda _, sets: len(sets) >= 3 and all(one[0] >= -1 for one in sets))  # fmt: skip
    for name in [name for name, network in table["networks"].items() if network.get("all")]:
        pairs = [
            (best(alone), row)
            for found in folds
            for row in found
            if row.network == name and (alone := [one for one in found if is_for_one(one, row, table["networks"])])
        ]
        told = goal(
            f"(c) {name}, one network for all, against the best for each", pairs, lambda mean, _: mean[0] >= -0.5
        )
        yield told | {"chosen": [f"{len(pairs)} configurations"] if pairs else []}
    pairs = []
    for found in timed if times is not None else []:
        wholes = [row for row in found if row.name == dense[row.folder].name.replace("f32", "int8")]
        fits = [row for row in found if row.is_ours and " merge " in row.architecture and row.key.endswith("int8")]
        pairs += [(whole, best(fast)) for whole in wholes if (fast := [r for r in fits if 2 * cost(r) <= cost(whole)])]
    yield goal("(d) merged in int8, twice as fast as dense in int8, against it", pairs, lambda mean, _: mean[0] >= -1)


def is_for_one(row: Row, other: Row, networks: Mapping[str, Any]) -> bool:
    """Whether a row has the architecture of another, and weights that were trained for one image size."""
    return row.architecture == other.architecture and not networks[row.network].get("all")


def goal(name: str, pairs: Sequence[tuple[Row, Row]], met: Callable[[Change, list[Change]], bool]) -> dict[str, Any]:
    """A comparison over all sets, of each set alone, what was chosen in each fold, and whether that is enough."""
    sets = {pair[1].set: [other for other in pairs if other[1].set == pair[1].set] for pair in pairs}
    chosen = [f"{ours.folder.name}: {ours.name} against {other.name}" for other, ours in pairs]
    each = {name: change for name, several in sets.items() if (change := difference(several)) is not None}
    mean = difference(pairs)
    verdict = "nothing to compare" if mean is None else "met" if met(mean, list(each.values())) else "missed"
    return {"goal": name, "points": mean, "sets": each, "chosen": chosen, "verdict": verdict}


def difference(pairs: Sequence[tuple[Row, Row]]) -> Change | None:
    """After minus before in points, with its interval: sets weigh the same, and of a set its images."""
    sets: dict[str, dict[str, list[int]]] = {}
    for before, after in pairs:
        images = sets.setdefault(after.set, {})
        for image, old, new in zip(after.images, before.test, after.test, strict=True):
            images.setdefault(image, []).append(int(new) - int(old))
    if not sets:
        return None
    each = [100 * np.array([np.mean(several) for several in images.values()]) for images in sets.values()]
    value = float(np.mean([changes.mean() for changes in each]))
    half = 1.96 * float(np.sqrt(sum(changes.var() / len(changes) for changes in each))) / len(each)
    return value, value - half, value + half


def machines(hosts: Sequence[Mapping[str, Any]]) -> str:
    """Each kind of CPU, and the days."""
    cpus = dict.fromkeys(f"{host['cpu']} ({', '.join(host['flags'])})" for host in hosts)
    dates = sorted({host["date"][:10] for host in hosts})
    return f"{' and '.join(cpus)}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"


def interval(points: Change | None) -> str:
    return "" if points is None else f"{points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}]"
