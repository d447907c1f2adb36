"""``fgvc-kit distill``: teach a fine-tuned model to work with dropped patches."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.errors import ParameterError
from tavt_kit.verbs import options, reading_options, training_options

if TYPE_CHECKING:
    from tavt_kit.workflows.distill import DistillResult

__all__ = ["distill_verb", "print_distilled"]

Run = Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, for example of `fgvc-kit train`.")]
Recipe = Annotated[
    str, typer.Option(help="modern (AdamW), tavt (the official SGD with layer dropout, bound 0.2), or a TOML file.")
]
Steps = Annotated[int | None, typer.Option(help="Updates. [default: 300]")]
Batch = Annotated[int | None, typer.Option(help="Pictures per update. [default: 16]")]
Bound = Annotated[
    str | None,
    typer.Option(help="Largest share of tokens a layer may drop, or how it grows: 0.2:0.6. [default: 0.4; tavt: 0.2]"),
]
Sampling = Annotated[
    str | None,
    typer.Option(
        help="Sub-networks by bound (each layer), ratio (tapers), stages (three drops), curve (late). [default: bound]"
    ),
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option(help="Distil the schedules of a search instead: its run folder or front.json; see --schedule too."),
]
Subs = Annotated[
    int | None, typer.Option(help="Random sub-networks per step, beside the full and the smallest. [default: 1]")
]
Sizes = Annotated[
    str | None,
    typer.Option("--image-size", help="Smaller sizes that the network learns too, such as 70,84,98. [default: none]"),
]
Direction = Annotated[
    str | None, typer.Option("--kl", help="forward, or reverse (official). [default: forward; tavt: reverse]")
]
Temperature = Annotated[float | None, typer.Option(help="Of the KL divergence. [default: 1]")]
LayerDropout = Annotated[float | None, typer.Option(help="Probability that a layer is left out. [default: none]")]
FeatureWeight = Annotated[
    float | None, typer.Option(help="Draw sub-networks to the tokens of the full one, weighed so. [default: 0]")
]
FeatureLayers = Annotated[
    str | None, typer.Option(help="Layers whose tokens are compared, such as 5,8. [default: the last but one]")
]
AttentionWeight = Annotated[
    float | None, typer.Option(help="Draw sub-networks to the attention maps of the full one. [default: 0]")
]
AttentionLayers = Annotated[
    str | None, typer.Option(help="Layers whose maps are compared, such as 5,8. [default: the last but one]")
]
TeacherRun = Annotated[
    Path | None, typer.Option("--teacher", help="A run of the same classes to learn from beside the labels.")
]
TeacherWeight = Annotated[
    float | None, typer.Option(help="Share of the full network's loss that comes from --teacher. [default: 0.5]")
]
Chunk = Annotated[
    int | None, typer.Option(help="Pictures computed at a time, for less memory. [default: by the device]")
]
Freeze = Annotated[int | None, typer.Option(help="Leading layers that are not trained. [default: a quarter of them]")]
Rate = Annotated[float | None, typer.Option("--lr", help="Highest learning rate. [default: 5e-5; tavt: 3e-2]")]
Warmup = Annotated[int | None, typer.Option(help="Updates of linear warm-up. [default: a twentieth of the steps]")]
Decay = Annotated[float | None, typer.Option("--weight-decay", help="Of matrices. [default: 0.05; tavt: 0]")]


def distill_verb(
    model: Run,
    out: options.Out,
    data: options.Data = None,
    recipe: Recipe = "modern",
    steps: Steps = None,
    batch: Batch = None,
    bound: Bound = None,
    sampling: Sampling = None,
    schedule: options.Schedules = None,
    schedules: ScheduleFile = None,
    sub_networks: Subs = None,
    image_size: Sizes = None,
    kl: Direction = None,
    temperature: Temperature = None,
    layer_dropout: LayerDropout = None,
    feature_weight: FeatureWeight = None,
    feature_layers: FeatureLayers = None,
    attention_weight: AttentionWeight = None,
    attention_layers: AttentionLayers = None,
    teacher: TeacherRun = None,
    teacher_weight: TeacherWeight = None,
    chunk: Chunk = None,
    freeze: Freeze = None,
    lr: Rate = None,
    warmup: Warmup = None,
    weight_decay: Decay = None,
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
    """Distil a fine-tuned model into itself with patch drop, so that dropped schedules keep its accuracy.

    Each step trains the full network by its family's loss, and the smallest and random sub-networks towards it (the
    sandwich rule); --schedules takes the sub-networks from a search's front, so that distil, search, distil again
    trains what was found. Pictures and split are those MODEL was trained on; other data is refused. The accuracy of a
    fixed ladder of schedules on val, down to ten times fewer multiply-adds, is recorded before and after;
    --evaluate-every selects by the mean of the metric over it. The same command continues what was interrupted.
    `accelerate launch` or torchrun before it shares the work among several processes.
    """
    from tavt_kit.verbs.console_progress import ConsoleProgress
    from tavt_kit.workflows.distill import distill

    reading = reading_options.reading_changes(
        resize=resize, interpolation=interpolation, crop=crop, scale=scale, ratio=ratio, augment=augment,
        rotation=rotation, auto_augment=auto_augment, color_jitter=color_jitter, blur=blur, sharpness=sharpness,
        erasing=erasing, erasing_fill=erasing_fill, mixup=mixup, cutmix=cutmix, workers=workers, cache=cache,
    )  # fmt: skip
    with ConsoleProgress() as progress:
        done = distill(
            model, out, data, recipe=recipe, schedule=schedule or (), schedules=schedules, teacher=teacher,
            score=score, reduction=reduction, device=device, seed=seed, allow_unreadable=allow_unreadable,
            save_every=save_every, fresh=fresh, dry_run=dry_run, progress=progress,
            steps=steps, batch=batch, bound=_bound(bound), sub_networks=sub_networks, kl=kl,
            image_sizes=_numbers("image-size takes pixels a side, such as 70,84,98", image_size),
            temperature=temperature, layer_dropout=layer_dropout, sampling=sampling, feature_weight=feature_weight,
            feature_layers=_numbers(f"feature-layers {_LAYERS}", feature_layers), attention_weight=attention_weight,
            attention_layers=_numbers(f"attention-layers {_LAYERS}", attention_layers), teacher_weight=teacher_weight,
            chunk=chunk, freeze=freeze, lr=lr, warmup=warmup, weight_decay=weight_decay,
            precision=precision, accumulation=accumulation, ema=ema, evaluate_every=evaluate_every, metric=metric,
            patience=patience, keep=keep, allow_smaller_batch=allow_smaller_batch or None, limit=limit,
            **reading,
        )  # fmt: skip
    if dry_run:
        print(json.dumps(done.record, indent=1))
    elif done.speaks and as_json:
        print(json.dumps(done.record))
    elif done.speaks:
        print_distilled(done)
    return 0


def _bound(text: str | None) -> float | str | None:
    """A plain share as the number it is, so that a recipe's record has it so."""
    return text if text is None or not re.fullmatch(r"\d*\.?\d+", text) else float(text)


_LAYERS = "takes layers counted from 0, such as 5,8"


def _numbers(rule: str, text: str | None) -> tuple[int, ...] | None:
    """``5,8`` -> (5, 8); ``rule`` begins with the option's name."""
    if text is None:
        return None
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ParameterError(f"--{rule}, got {text!r}")
    return tuple(int(part) for part in text.split(","))


def print_distilled(done: DistillResult) -> None:
    """The ladder on stdout, before and after."""
    from rich.console import Console
    from rich.table import Table

    from tavt_kit.core.accuracy import Accuracy

    results = done.record["results"]
    table = Table(title=f"{done.folder}: top-1 on {results['val']['split']}, % [95 %]")
    for name in ("schedule", "MACs", "before", "after", "difference, paired"):
        table.add_column(name, justify="left" if name == "schedule" else "right")
    for old, entry in zip(results["before"], results["after"], strict=True):
        before, after = (Accuracy.from_record(step["accuracy"]) for step in (old, entry))
        paired = entry["difference"]
        low, high = (100 * end for end in paired["ci95"])
        table.add_row(
            entry["name"],
            f"{entry['macs'] / 1e9:.3g} G",
            f"{100 * before.value:.1f}",
            f"{100 * after.value:.1f} \\[{100 * after.low:.1f}, {100 * after.high:.1f}]",
            f"{100 * paired['difference']:+.1f} \\[{low:+.1f}, {high:+.1f}]",
        )
    Console().print(table)
    loop = results["loop"]
    pace = "" if loop["seconds_per_step"] is None else f", {loop['seconds_per_step']:.2f} s a step"
    print(f"{loop['steps']} steps in {loop['seconds']:.0f} s{pace}")
