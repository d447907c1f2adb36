"""Every family the whole way on real photographs: convert -> train -> eval -> distil -> search -> export -> check.

    python examples/studies/whole_way.py --out runs/whole-way --data elpv --limit 160

The official files are those of ``tests/reference``, made by the official code, and for ViTAE an official size; the
public converter reads them. All have random weights, so the accuracies mean nothing; what is shown is that each step
does its work on a folder of photographs and that every exported file passes its check. A fresh head for the classes of
the data is fitted after ``convert``. Prints a table: family by step, with seconds; ends at the first step that fails,
with what it said.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm

REFERENCE = Path(__file__).parents[2] / "tests" / "reference"
FAMILIES: dict[str, tuple[str, tuple[object, ...]]] = {
    "TAVT": ("tavt_forward_overlap", ("--heads", 3, "--slide-step", 6)),
    "FFVT": ("ffvt_forward_a", ("--heads", 4, "--num-token", 3)),
    "Mix-ViT, pure": ("mixvit_pure_a", ("--heads", 4)),
    "Mix-ViT, hybrid": ("mixvit_hybrid_a", ("--heads", 4, "--image-size", 96)),
    "ViTAE": ("vitae_tiny", ("--image-size", 64)),
    "ViTAEv2": ("vitaev2_s", ("--image-size", 64)),
    "PIM": ("pim_vit_a", ("--heads", 4, "--num-selects", "20,16,16,12")),
    "TransFG": ("transfg_overlap", ("--heads", 4, "--slide-step", 6, "--image-size", 44)),
}
"""Golden file, or the official size of a ViTAE, and what its keys do not tell."""

STEPS = ("convert", "train", "eval", "distill", "search", "export ONNX", "export OpenVINO", "check, batches")


def main() -> None:
    """The table on standard output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--limit", default="160")
    given = parser.parse_args()
    print("| family | " + " | ".join(STEPS) + " |\n|" + "---|" * (len(STEPS) + 1))
    for family in FAMILIES:
        cells = list(walk(family, given.out / family.replace(", ", "-"), given.data, given.limit))
        print(f"| {family} | " + " | ".join(cells) + " |", flush=True)


def walk(family: str, place: Path, data: str, limit: str) -> Iterator[str]:
    """What each step says: its seconds, or why it does not apply."""
    file, flags = FAMILIES[family]
    place.mkdir(parents=True)
    torch.save({"model": official_state(file)}, place / "official.bin")
    yield run("convert", place / "official.bin", "-o", place / "converted", *flags)
    yield run("train", place / "converted", "-o", place / "trained", "--data", data, "--limit", limit)
    yield run("eval", place / "trained", "--data", data, "--limit", limit)
    model = load_model(place / "trained")
    source: Path = place / "trained"
    if model.backbone.static_reason is None:
        settings = ("--steps", 10, "--batch", 8, "--limit", limit)
        yield run("distill", place / "trained", "-o", place / "distilled", *settings)
        taper = TokenSchedule.taper(model.layout, 0.4)
        budget = f"flops={(count_macs(model) + count_macs(model, taper)) / 2:.0f}"
        found = ("-o", place / "found", "--budget", budget, "--evaluations", 8, "--limit", limit, "--no-baselines")
        yield run("search", place / "distilled", *found)
        source = place / "found"
    else:
        yield from ("nothing to drop: refused", "nothing to drop: refused")
    batches = []
    for form in ("onnx", "openvino"):
        dense = ("--schedule", "dense", "--data", data) if model.backbone.static_reason else ()
        yield run("export", source, "-o", place / form, "--format", form, "--drop", 50, "--limit", limit, *dense)
        record = json.loads((place / form / "check.json").read_text())["checks"][0]
        batches.append(f"{record['verdict']} at {record['batches']['sizes']}")
    yield "; ".join(batches)


def official_state(file: str) -> dict[str, torch.Tensor]:
    """Tensors by their official names; of a ViTAE random ones, in its official size."""
    if file.startswith("vitae"):
        return dict(timm.create_model(file, num_classes=4, img_size=64).state_dict())
    with np.load(REFERENCE / f"{file}.npz", allow_pickle=False) as arrays:
        return {key[len("state/") :]: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("state/")}


def run(*words: object) -> str:
    """Its wall time."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "tavt_kit", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")
    return f"{time.perf_counter() - start:.0f} s"


if __name__ == "__main__":
    main()
