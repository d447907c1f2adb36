"""``fgvc-kit train``: adapt a pretrained model to a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options, reading_options

__all__ = ["Device", "SaveEvery", "train_verb"]

Recipe = Annotated[str, typer.Option(help="probe: the head alone; finetune: then the last blocks too.")]
Blocks = Annotated[int, typer.Option(help="Last blocks that finetune trains.")]
Steps = Annotated[int, typer.Option(help="Updates.")]
Batch = Annotated[int, typer.Option(help="Pictures per update.")]
Rate = Annotated[float, typer.Option("--lr", help="Highest learning rate.")]
Warmup = Annotated[int | None, typer.Option(help="Updates of linear warm-up. [default: a twentieth of the steps]")]
Decay = Annotated[float, typer.Option("--weight-decay", help="Of matrices.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N]. [default: a GPU if there is one]")]
SaveEvery = Annotated[str, typer.Option(help="Time between two saved states.")]


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
    resize: reading_options.Resize = None,
    interpolation: reading_options.Interpolation = None,
    crop: reading_options.Crop = None,
    scale: reading_options.Scale = None,
    ratio: reading_options.Ratio = None,
    augment: reading_options.Augment = None,
    rotation: reading_options.Rotation = None,
    auto_augment: reading_options.AutoAugment = None,
    color_jitter: reading_options.ColorJitter = None,
    blur: reading_options.Blur = None,
    sharpness: reading_options.Sharpness = None,
    erasing: reading_options.Erasing = None,
    erasing_fill: reading_options.ErasingFill = None,
    mixup: reading_options.Mixup = None,
    cutmix: reading_options.Cutmix = None,
    workers: reading_options.Workers = None,
    cache: reading_options.Cache = None,
    precision: options.Precision = None,
    score: options.Score = None,
    pool: options.Pool = None,
    device: Device = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    allow_unreadable: options.AllowUnreadable = 0,
    save_every: SaveEvery = "60s",
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Fit a model to a data set: its head on cached features (probe), or the last blocks too (finetune).

    The penalty of the probe is chosen by val accuracy; nothing else is selected. An unreadable picture in the
    training split is refused; --allow-unreadable is for val. Writes run.json, split.json, metrics.jsonl,
    model.safetensors and model.json; the same command continues what was interrupted.
    """
    from tavt_kit.distill.reading import Reading
    from tavt_kit.distill.recipe import Optimisation, TrainRecipe

    reading = reading_options.reading_changes(
        resize=resize, interpolation=interpolation, crop=crop, scale=scale, ratio=ratio, augment=augment,
        rotation=rotation, auto_augment=auto_augment, color_jitter=color_jitter, blur=blur, sharpness=sharpness,
        erasing=erasing, erasing_fill=erasing_fill, mixup=mixup, cutmix=cutmix, workers=workers, cache=cache,
    )  # fmt: skip
    chosen = TrainRecipe(
        recipe,
        blocks=blocks,
        optimisation=Optimisation(
            steps=steps,
            batch=batch,
            lr=lr,
            warmup=warmup,
            weight_decay=weight_decay,
            precision=precision,
        ),
        reading=Reading(**reading),
        seed=seed,
        limit=limit,
    )
    seconds, share = options.parse_duration(save_every), options.parse_fraction(fraction)
    from tavt_kit.checkpoints import open_model
    from tavt_kit.data import keep_fraction, load_images
    from tavt_kit.distill import train
    from tavt_kit.distill.common import card_of
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


def _say(out: Path, record: dict[str, Any]) -> None:
    from tavt_kit.accuracy import Accuracy

    results = record["results"]
    accuracy = Accuracy.from_record(results["val"])
    print(f"{out}: dense top-1 {accuracy}")
    probe = results["probe"]
    print(f"head: penalty {probe['penalty']:g}, top-1 {Accuracy.from_record(probe['accuracy'])}")
