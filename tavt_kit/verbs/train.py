"""``fgvc-kit train``: adapt a pretrained model to a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options, training_options

__all__ = ["split_list", "train_verb"]

Recipe = Annotated[str, typer.Option(help="probe: the head alone; finetune: then the last blocks too.")]
Blocks = Annotated[int, typer.Option(help="Last blocks that finetune trains.")]
Steps = Annotated[int, typer.Option(help="Updates.")]
Batch = Annotated[int, typer.Option(help="Pictures per update.")]
Rate = Annotated[float, typer.Option("--lr", help="Highest learning rate.")]
Warmup = Annotated[int | None, typer.Option(help="Updates of linear warm-up. [default: a twentieth of the steps]")]
Decay = Annotated[float, typer.Option("--weight-decay", help="Of matrices.")]
Augment = Annotated[str, typer.Option(help="flip, vflip, rotate (quarter turns), shift: some with commas, or none.")]


def train_verb(
    model: options.Model,
    out: options.Out,
    data: options.Data = None,
    fraction: options.Fraction = None,
    weights: options.Weights = None,
    recipe: Recipe = "probe",
    image_size: options.ImageSize = None,
    blocks: Blocks = 4,
    steps: Steps = 300,
    batch: Batch = 16,
    lr: Rate = 3e-5,
    warmup: Warmup = None,
    weight_decay: Decay = 0.05,
    augment: Augment = "flip",
    precision: training_options.Precision = None,
    accumulation: training_options.Accumulation = None,
    ema: training_options.Ema = None,
    evaluate_every: training_options.EvaluateEvery = None,
    metric: training_options.SelectBy = None,
    patience: training_options.Patience = None,
    keep: training_options.Keep = None,
    allow_smaller_batch: training_options.AllowSmallerBatch = False,
    score: options.Score = None,
    pool: options.Pool = None,
    device: training_options.Device = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    allow_unreadable: options.AllowUnreadable = 0,
    save_every: training_options.SaveEvery = "60s",
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Fit a model to a data set: its head on cached features (probe), or the last blocks too (finetune).

    The penalty of the probe is chosen by val accuracy; with --evaluate-every the weights are, too. An unreadable
    picture in the training split is refused; --allow-unreadable is for val. Writes run.json, split.json,
    metrics.jsonl, tensorboard/, model.safetensors and model.json; the same command continues what was interrupted.
    `accelerate launch` or torchrun before it shares the work among several processes.
    """
    from tavt_kit.distill.recipe import Optimisation, TrainRecipe
    from tavt_kit.distill.running import Running

    chosen = TrainRecipe(
        recipe,
        blocks=blocks,
        optimisation=Optimisation(
            steps=steps,
            batch=batch,
            lr=lr,
            warmup=warmup,
            weight_decay=weight_decay,
            augment=split_list(augment),
        ),
        running=Running(
            precision=precision,
            accumulation=1 if accumulation is None else accumulation,
            ema=ema,
            evaluate_every=evaluate_every,
            metric=metric or "top1",
            patience=patience,
            keep=1 if keep is None else keep,
            allow_smaller_batch=allow_smaller_batch,
        ),
        seed=seed,
        limit=limit,
    )
    seconds, share = options.parse_duration(save_every), options.parse_fraction(fraction)
    from tavt_kit.checkpoints import open_model
    from tavt_kit.data import keep_fraction, load_images
    from tavt_kit.distill import train
    from tavt_kit.distill.common import card_of
    from tavt_kit.distill.processes import Processes
    from tavt_kit.records import make_folder
    from tavt_kit.verbs.bar import Bar

    images = keep_fraction(load_images(required(data), seed=seed), share, seed=seed)
    if not dry_run:
        make_folder(out)
    adaptive = open_model(
        model, weights=weights or "hub", classes=images.classes, image_size=image_size, seed=seed,
        new_head=True, score=score, pool=pool,
    )  # fmt: skip
    if dry_run:
        print(json.dumps({"recipe": chosen.as_record(), "card": card_of(adaptive, images).as_record()}, indent=1))
        return 0
    with Bar() as bar:
        record = train(
            adaptive, images, out, chosen, device=device, fresh=fresh, allow_unreadable=allow_unreadable,
            progress=bar, save_seconds=seconds or 60.0,
        )  # fmt: skip
    if not Processes.join(device).first:
        return 0
    if as_json:
        print(json.dumps(record))
    else:
        _say(out, record)
    return 0


def required(data: str | None) -> str:
    """The data, or DataError."""
    from tavt_kit.errors import DataError

    if data is None:
        raise DataError("training needs pictures: give --data with a folder, a CSV list, elpv or textile")
    return data


def split_list(text: str) -> tuple[str, ...]:
    """``"flip,rotate"`` as its parts; ``"none"`` has none."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part not in ("", "none"))


def _say(out: Path, record: dict[str, Any]) -> None:
    from tavt_kit.accuracy import Accuracy

    results = record["results"]
    accuracy = Accuracy.from_record(results["val"])
    print(f"{out}: dense top-1 {accuracy}")
    probe = results["probe"]
    print(f"head: penalty {probe['penalty']:g}, top-1 {Accuracy.from_record(probe['accuracy'])}")
