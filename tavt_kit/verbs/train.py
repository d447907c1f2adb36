"""``fgvc-kit train``: adapt a pretrained model to a data set."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options, reading_options, training_options

if TYPE_CHECKING:
    from tavt_kit.workflows.train import TrainResult

__all__ = ["print_trained", "train_verb"]

Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE.toml",
        help="probe, finetune, modern, a published recipe such as ffvt-cub (docs/recipes.md), or a TOML file.",
    ),
]
Blocks = Annotated[str | None, typer.Option(metavar="N|all", help="Last blocks to train, or all.")]
Probe = Annotated[bool | None, typer.Option("--probe/--no-probe", help="Fit the head to cached features first.")]
Steps = Annotated[int | None, typer.Option(help="Updates.")]
Epochs = Annotated[float | None, typer.Option(help="Passes through the training pictures, instead of --steps.")]
Batch = Annotated[int | None, typer.Option(help="Pictures per update.")]
Optimiser = Annotated[str | None, typer.Option(help="adamw or sgd.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Highest learning rate.")]
LrBatch = Annotated[int | None, typer.Option(help="--lr is for so many pictures per update, and grows with --batch.")]
Warmup = Annotated[int | None, typer.Option(help="Updates of linear warm-up.")]
WarmupEpochs = Annotated[float | None, typer.Option(help="The same in epochs.")]
Decay = Annotated[str | None, typer.Option(help="Of the learning rate: cosine, linear or constant.")]
StartLr = Annotated[float | None, typer.Option(help="Where the warm-up begins.")]
FinalLr = Annotated[float | None, typer.Option(help="Where the decay ends.")]
Cooldown = Annotated[int | None, typer.Option(help="Last updates, at --final-lr.")]
CooldownEpochs = Annotated[float | None, typer.Option(help="The same in epochs, on top of --epochs.")]
WeightDecay = Annotated[float | None, typer.Option(help="Of matrices and filters.")]
DecayAll = Annotated[
    bool | None, typer.Option("--decay-all/--decay-matrices", help="Decay biases, norms and tables too.")
]
Momentum = Annotated[float | None, typer.Option(help="Of SGD.")]
Nesterov = Annotated[bool | None, typer.Option("--nesterov/--no-nesterov", help="Whether SGD looks ahead.")]
Clip = Annotated[str | None, typer.Option(metavar="NORM|none", help="Largest gradient norm.")]
LayerDecay = Annotated[float | None, typer.Option(help="Factor on the learning rate from a layer to the one before.")]
LrScale = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FACTOR", help="Of parameters whose names begin so; repeatable.")
]
DropPath = Annotated[float | None, typer.Option(help="Of the last block's branches, rising from 0 at the first.")]
Dropout = Annotated[float | None, typer.Option(help="Of position embeddings and feed-forward halves.")]
Loss = Annotated[str | None, typer.Option(help="cross_entropy, contrastive, mixvit_pure, mixvit_hybrid or pim.")]
LossWeight = Annotated[list[str] | None, typer.Option(metavar="TERM=WEIGHT", help="Of a term of the loss; repeatable.")]
Smoothing = Annotated[float | None, typer.Option(help="Label smoothing.")]
ClassWeights = Annotated[str | None, typer.Option(help="none or balanced, from the training split.")]
Margin = Annotated[float | None, typer.Option(help="Of the contrastive loss.")]
MixShare = Annotated[float | None, typer.Option(help="Share of the tokens that Mix-ViT substitutes.")]
Compat = Annotated[str | None, typer.Option(help="Of Mix-ViT's losses: official, slips included, or fixed.")]


def train_verb(
    model: options.Model,
    out: options.Out,
    data: options.Data = None,
    fraction: options.Fraction = None,
    weights: options.Weights = None,
    recipe: Recipe = "probe",
    image_size: options.ImageSize = None,
    probe: Probe = None,
    blocks: Blocks = None,
    steps: Steps = None,
    epochs: Epochs = None,
    batch: Batch = None,
    optimiser: Optimiser = None,
    lr: Rate = None,
    lr_batch: LrBatch = None,
    warmup: Warmup = None,
    warmup_epochs: WarmupEpochs = None,
    decay: Decay = None,
    start_lr: StartLr = None,
    final_lr: FinalLr = None,
    cooldown: Cooldown = None,
    cooldown_epochs: CooldownEpochs = None,
    weight_decay: WeightDecay = None,
    decay_all: DecayAll = None,
    momentum: Momentum = None,
    nesterov: Nesterov = None,
    clip: Clip = None,
    layer_decay: LayerDecay = None,
    lr_scale: LrScale = None,
    drop_path: DropPath = None,
    dropout: Dropout = None,
    loss: Loss = None,
    loss_weight: LossWeight = None,
    smoothing: Smoothing = None,
    class_weights: ClassWeights = None,
    margin: Margin = None,
    mix_share: MixShare = None,
    compat: Compat = None,
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
    reduction: options.Reduction = None,
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
    """Fit a model to a data set by a recipe: its head on cached features (probe), some blocks, or everything.

    Every flag replaces a value of the recipe, and the result is written to run.json. The penalty of a probe is chosen
    by val accuracy; with --evaluate-every the weights are, too. An unreadable picture in the training split is refused;
    --allow-unreadable is for val. Writes run.json, split.json, metrics.jsonl, tensorboard/, model.safetensors and
    model.json; the same command continues what was interrupted. `accelerate launch` or torchrun before it shares the
    work among several processes.
    """
    from tavt_kit.verbs.console_progress import ConsoleProgress
    from tavt_kit.workflows.train import train

    reading = reading_options.reading_changes(
        resize=resize, interpolation=interpolation, crop=crop, scale=scale, ratio=ratio, augment=augment,
        rotation=rotation, auto_augment=auto_augment, color_jitter=color_jitter, blur=blur, sharpness=sharpness,
        erasing=erasing, erasing_fill=erasing_fill, mixup=mixup, cutmix=cutmix, workers=workers, cache=cache,
    )  # fmt: skip
    with ConsoleProgress() as progress:
        done = train(
            model, out, data, recipe=recipe, fraction=fraction, weights=weights, image_size=image_size, score=score,
            pool=pool, reduction=reduction, device=device, seed=seed, allow_unreadable=allow_unreadable,
            save_every=save_every, fresh=fresh, dry_run=dry_run, progress=progress,
            probe=probe, blocks=number_or(blocks, "all"), steps=steps, epochs=epochs,
            batch=batch, optimiser=optimiser, lr=lr, lr_batch=lr_batch, warmup=warmup, warmup_epochs=warmup_epochs,
            decay=decay, start_lr=start_lr, final_lr=final_lr, cooldown=cooldown, cooldown_epochs=cooldown_epochs,
            weight_decay=weight_decay, decay_all=decay_all, momentum=momentum, nesterov=nesterov,
            clip=number_or(clip, "none"), layer_decay=layer_decay, lr_scale=table("--lr-scale", lr_scale),
            drop_path=drop_path, dropout=dropout, loss=loss, loss_weights=table("--loss-weight", loss_weight),
            smoothing=smoothing, class_weights=class_weights, margin=margin, mix_share=mix_share, compat=compat,
            precision=precision, accumulation=accumulation, ema=ema, evaluate_every=evaluate_every, metric=metric,
            patience=patience, keep=keep, allow_smaller_batch=allow_smaller_batch or None, limit=limit,
            **reading,
        )  # fmt: skip
    if dry_run:
        print(json.dumps(done.record, indent=1))
    elif done.speaks and as_json:
        print(json.dumps(done.record))
    elif done.speaks:
        print_trained(done)
    return 0


def number_or(text: str | None, word: str) -> float | int | str | None:
    """``"4"`` -> 4, ``"0.5"`` -> 0.5; the word, and what is no number, stays a text for the recipe to judge."""
    if text is None or text == word:
        return text
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def table(flag: str, entries: list[str] | None) -> dict[str, float] | None:
    """``["mask=4"]`` -> {"mask": 4.0}.

    Raises:
        ParameterError: An entry without a number.
    """
    found = {}
    for entry in entries or ():
        name, _, number = entry.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise ParameterError(f"{flag} is given as NAME=NUMBER, such as mask=4, got {entry!r}") from None
    return found or None


def print_trained(done: TrainResult) -> None:
    """Its accuracy on stdout, and the penalty of a probe."""
    from tavt_kit.core.accuracy import Accuracy

    print(f"{done.folder}: dense top-1 {done.top1}")
    if probe := done.record["results"].get("probe"):
        print(f"head: penalty {probe['penalty']:g}, top-1 {Accuracy.from_record(probe['accuracy'])}")
