"""Do heads and losses that cost nothing at run time pay where tokens merge? Class tokens, exits, features.

    python examples/studies/proof.py --out runs/proof --only elpv --only start --step train
    python examples/studies/heads.py --out runs/proof --place elpv-0 --place elpv-1 --place elpv-2

Each way begins with the same fine-tune (``start`` of ``proof.py``, 112 pixels) and is trained for one merging schedule
at a smaller image, by as many steps with the same draws. ``labels`` is what ``train --set schedule=...`` does. ``cla``
adds what is read from the class tokens after several layers, normed, convolved over depth (CLCA, arXiv 2501.00243, by
its description; its last layer begins at zero, so that the network begins as it was). ``exits`` adds heads after a
quarter, a half and three quarters of the layers, which are thrown away (METR, ICLR 2024, by its description).
``features`` adds the distance of the tokens to those of the network that it began with, which keeps all of its own
(TinyBERT's hidden-state loss). A way is kept where it wins on ``val`` in every place. Writes ``heads.json``; the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.host import HostFacts
from tavt_kit.core.progress import Silent
from tavt_kit.core.records import atomic_text
from tavt_kit.data import load_images
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill import common
from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.losses import at_least_f32, target_loss, token_distance
from tavt_kit.distill.optimizer import attached
from tavt_kit.distill.recipes import train_recipe
from tavt_kit.distill.trainer import Trainer
from tavt_kit.evaluation.result import paired
from tavt_kit.models.token_reduction import TokenState
from tavt_kit.models.wrap import AdaptiveViT

WAYS = ("labels", "cla", "exits", "features")
_WEIGHT = 0.3
"""Of each exit's cross-entropy, beside that of the answer."""

Pass = Callable[[Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]
"""Images and, in training, labels -> logits, and named terms of the loss beside the cross-entropy of the logits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of proof.py")
    parser.add_argument("--place", action="append", required=True, help="a set's fold or seed, such as elpv-0; repeat")
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--schedule", default="stages:0.3")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    answers = {place: {way: answered(given, place, way) for way in WAYS} for place in given.place}
    rows = []
    for way in WAYS:
        by_place, splits = {}, {}
        for split in ("val", "test"):
            both = [(answers[place]["labels"][split], answers[place][way][split]) for place in given.place]
            plain, right = (np.concatenate(bits) for bits in zip(*both, strict=True))
            by_place[split] = [100 * float(after.mean() - before.mean()) for before, after in both]
            splits[split] = {
                "accuracy": Accuracy.of_counts(int(right.sum()), len(right), split=split).as_record(),
                "against_labels": paired(plain, right).as_record(),
            }
        wins = all(points > 0 for points in by_place["val"]) and way != "labels"
        rows.append({"way": way, **splits, "points_by_place": by_place, "kept": wins})
    asked = {key: value for key, value in vars(given).items() if key != "out"}
    record = {"study": "heads", "asked": asked, "host": HostFacts.gather().as_record(), "rows": rows}
    atomic_text(given.out / "heads.json", json.dumps(record, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def answered(given: argparse.Namespace, place: str, way: str) -> dict[str, NDArray[np.bool_]]:
    """Which images of val and test a way has right."""
    folder = given.out / place / f"heads-{way}"
    file = folder / "answers.json"
    if not file.is_file():
        print(place, way, flush=True)
        folder.mkdir(exist_ok=True)
        found = trained(given, place, way, folder)
        atomic_text(file, json.dumps({split: "".join("01"[bit] for bit in bits) for split, bits in found.items()}))
    texts: Mapping[str, str] = json.loads(file.read_text())
    return {split: np.array(list(text), int).astype(bool) for split, text in texts.items()}


def trained(given: argparse.Namespace, place: str, way: str, folder: Path) -> dict[str, list[bool]]:
    images, seed = load_images(str(given.out / place / "list.csv")), int(place.rpartition("-")[2])
    model = load_model(given.out / place / "start", image_size=given.image_size)
    model.reduction, model.schedule = "merge", given.schedule
    turns = "flip,vflip" if place.startswith(("elpv", "textile")) else "flip"
    recipe = train_recipe("finetune", blocks="all", probe=False, steps=given.steps, batch=16, lr=2e-5, ema=0.98,
                          augment=turns.split(","), seed=seed)  # fmt: skip
    card = model.require_card()
    recipe = common.settle(recipe, card, images, torch.device("cpu"), freeze=0, begun={})
    preprocessing, progress = Preprocessing.from_record(card.preprocessing), Silent()
    branch, passed = way_of(way, model, seed)

    def step(batch: Batch, draws: np.random.Generator, backward: Callable[[Tensor], None]) -> Mapping[str, Tensor]:
        logits, terms = passed(batch.images, batch.labels)
        loss = sum_of([target_loss(logits, batch), *terms.values()])
        backward(loss)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    split = common.open_split(images, "train", preprocessing, recipe, plain=False)
    found: dict[str, list[bool]] = {}
    with attached(model, branch):
        Trainer(model, split, step, recipe.optimisation, recipe.running, folder, seed=seed, progress=progress,
                 what=f"{place} {way}").run()  # fmt: skip
        for name in ("val", "test"):
            held = common.open_split(images, name, preprocessing, recipe)
            found[name] = []
            with torch.inference_mode():
                for start in range(0, len(held), 64):
                    chosen = torch.from_numpy(held.inputs(held.pixels[start : start + 64]))
                    labels = torch.from_numpy(held.labels[start : start + 64])
                    found[name] += (passed(chosen, None)[0].argmax(1) == labels).tolist()
    return found


def way_of(way: str, model: AdaptiveViT, seed: int) -> tuple[nn.Module | None, Pass]:
    """What trains beside the network, and the pass of both."""
    bare: Any = model.bare
    width, classes, layers = bare.embed_dim, bare.num_classes, model.layers
    torch.manual_seed(seed)
    depths = {
        "cla": (layers // 3, 7 * layers // 12, 5 * layers // 6, layers),
        "exits": (layers // 4, layers // 2, 3 * layers // 4),
        "features": (layers // 3, 2 * layers // 3, layers),
    }.get(way, ())
    over_depth = ClassTokens(width, classes, len(depths)) if way == "cla" else None
    exits = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes)) for _ in depths)
    teacher = None
    if way == "features" and model.folder is not None:
        teacher = load_model(model.folder, image_size=model.backbone.image_size).requires_grad_(False).eval()

    def passed(images: Tensor, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        states, logits = through(model, images, depths)
        if over_depth is not None:
            logits = logits + over_depth(torch.stack([state.tokens[:, 0] for state in states], dim=1))
        if labels is None:
            return logits, {}
        if way == "exits":
            seen = [head(state.tokens[:, 0]) for head, state in zip(exits, states, strict=True)]
            return logits, {"exits": _WEIGHT * sum_of([F.cross_entropy(at_least_f32(one), labels) for one in seen])}
        if teacher is not None:
            with torch.no_grad():
                known, _ = through(teacher, images, depths)
            both = zip(states, known, strict=True)
            return logits, {"features": sum_of([token_distance(state, theirs.tokens) for state, theirs in both])}
        return logits, {}

    return over_depth if over_depth is not None else exits if way == "exits" else None, passed


def through(model: AdaptiveViT, images: Tensor, depths: tuple[int, ...]) -> tuple[list[TokenState], Tensor]:
    """The states after so many layers each, and the logits."""
    states, state = [], model.start(images, track=model.reduction == "merge")
    for layer in range(model.layers):
        state = model.advance(state, [layer], model.schedule.counts)
        if layer + 1 in depths:
            states.append(state)
    return states, model.finish(state)


def sum_of(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


class ClassTokens(nn.Module):
    """Logits (B, K) of class tokens (B, d, D) of d depths: norm, depthwise convolution over depth, GELU, linear."""

    def __init__(self, width: int, classes: int, depths: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.over_depth = nn.Conv1d(width, width, depths, groups=width)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, d, D) -> (B, K)."""
        mixed = self.over_depth(self.norm(tokens).transpose(1, 2)).flatten(1)
        return self.head(F.gelu(mixed))  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
