"""``fgvc-kit prune``: take heads, channels and layers from a trained model, and save what is left as a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.data import ImageSet
    from tavt_kit.models.wrap import AdaptiveViT
    from tavt_kit.pruning import Pictures

__all__ = ["prune_verb"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of train, distill, convert or prune.")]
Mlp = Annotated[float | None, typer.Option(help="Share of the feed-forward channels that is left, e.g. 0.5.")]
Heads = Annotated[float | None, typer.Option(help="Share of the attention heads that is left.")]
Width = Annotated[float | None, typer.Option(help="Share of the embedding channels that is left.")]
Depth = Annotated[int | None, typer.Option(help="Number of layers that are left.")]
Importance = Annotated[str, typer.Option(help="magnitude, taylor, hessian or random.")]
RoundTo = Annotated[int, typer.Option("--round-to", help="Channels are left in multiples of this.")]
Budget = Annotated[
    str | None,
    typer.Option("--budget", help="flops=0.8G or latency=8ms: finds how many heads and channels may stay."),
]
PruneTarget = Annotated[
    str | None, typer.Option("--target", help="Where a latency budget is measured. [default: openvino:cpu]")
]
For = Annotated[str | None, typer.Option("--schedule", help="Schedule that the budget is meant for. [default: dense]")]
Judging = Annotated[int, typer.Option("--pictures", min=1, help="Training pictures that decide what matters.")]

Refit = Annotated[
    bool, typer.Option("--refit/--no-refit", help="Let what is left take over from what is cut, by least squares.")
]

RECORD = ("prune.json", "fgvc-kit/prune", 1)


def prune_verb(
    run: Run,
    out: options.Out,
    mlp: Mlp = None,
    heads: Heads = None,
    width: Width = None,
    depth: Depth = None,
    budget: Budget = None,
    schedule: For = None,
    target: PruneTarget = None,
    importance: Importance = "taylor",
    round_to: RoundTo = 8,
    refit: Refit = True,
    pictures: Judging = 256,
    data: options.Data = None,
    limit: options.Limit = None,
    allow_unreadable: options.AllowUnreadable = 0,
    seed: options.Seed = 0,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Remove the heads, channels and layers that matter least, and save a smaller run.

    Of each layer the same share is left, in multiples of --round-to. With --budget the share of heads and feed-forward
    channels is found that meets it; one of --mlp and --heads may then be given to hold it fixed. The layers behind a
    cut are refitted on training pictures; what is lost for all that has to be learned anew: go on with
    `fgvc-kit distill OUT --teacher RUN`. Accuracy is told on val, before and after; dense models of no more
    multiply-adds are named, because pruning often loses to them.
    """
    from tavt_kit.checkpoints import load_model
    from tavt_kit.data.inherited import inherited_images
    from tavt_kit.models.wrap import wrap
    from tavt_kit.pruning import Targets, prune
    from tavt_kit.pruning.baselines import dense_rivals
    from tavt_kit.pruning.importance import check_importance
    from tavt_kit.pruning.prune import pruned_card
    from tavt_kit.verbs.progress import watching
    from tavt_kit.workflows.prune_budget import PruneBudget

    targets = Targets(mlp, heads, width, depth, round_to)
    check_importance(importance)
    asked = PruneBudget.read(budget, schedule, target, seed)
    model = load_model(run)
    card: ModelCard = model.card  # type: ignore[assignment]
    images = inherited_images(run if run.is_dir() else run.parent, data)
    _refuse_classes(card, images)
    request = {
        "source_sha256": card.weights_sha256, "targets": asdict(targets), "importance": importance,
        "budget": None if asked is None else asdict(asked), "refit": refit, "pictures": pictures, "seed": seed,
        "data": images.sha256, "limit": limit,
    }  # fmt: skip
    if (done := _done(run, out, request, fresh)) is not None:
        return _tell(out, run, done, as_json)
    with watching("reading pictures") as tell:
        judge = _judging(card, images, pictures, allow_unreadable)
        right = _evaluation(card, images, limit, allow_unreadable)
        tell("evaluating", None)
        before, right_before = _facts(model), right(model)
        tell("pruning", None)
        bare, ceiling = model.unwrap(), None if asked is None else asked.ceiling(model)
        pruned = prune(bare, targets, importance=importance, pictures=judge, ceiling=ceiling, refit=refit, seed=seed)
        small = wrap(bare, model.score, model.pool, model.reduction)
        tell("evaluating", None)
        after, right_after = _facts(small), right(small)
        record = {
            "request": request,
            "source": str(run),
            "left": {"layers": list(pruned.kept), **{kind: list(units) for kind, units in pruned.units.items()}},
            "shares": asdict(pruned.targets),
            "before": {**before, "top1": _top1(right_before)},
            "after": {**after, "top1": _top1(right_after)},
            "difference": _difference(right_before, right_after),
            "budget": None if asked is None else asked.judged(small),
            "dense_rivals": dense_rivals(card, after["macs"]),
        }
    _write(out, images, small, pruned_card(card, bare, pruned.kept, f"pruned by {importance}"), record)
    return _tell(out, run, record, as_json)


# --------------------------------------------------------------------------------------------- what was asked


def _refuse_classes(card: ModelCard, images: ImageSet) -> None:
    from tavt_kit.errors import DataError

    if images.classes != card.classes:
        raise DataError(
            f"the model knows {len(card.classes)} classes ({', '.join(card.classes[:4])}...), but {images.name} has "
            f"{len(images.classes)} ({', '.join(images.classes[:4])}...); give the data it was trained on"
        )


def _done(run: Path, out: Path, request: dict[str, Any], fresh: bool) -> dict[str, Any] | None:
    """What the same command wrote before, if it did."""
    from tavt_kit.checkpoints import is_run
    from tavt_kit.core.records import read_record
    from tavt_kit.errors import OutputError, RecordError

    if run.resolve() in (out.resolve(), (out / "model.safetensors").resolve()):
        raise OutputError(f"{out} holds the model that is to be pruned; choose another --out")
    if not is_run(out):
        return None
    if not (out / RECORD[0]).is_file():
        raise RecordError(f"{out} is a run that prune did not write; choose another --out")
    if fresh:
        return None
    known = read_record(out / RECORD[0], *RECORD[1:])
    if differing := [name for name, value in request.items() if known.get("request", {}).get(name) != value]:
        raise RecordError(
            f"{out} was pruned with another {', '.join(differing)}; choose another --out, or start again with --fresh"
        )
    return known


def _write(out: Path, images: ImageSet, model: AdaptiveViT, card: ModelCard, record: dict[str, Any]) -> None:
    """The card comes last: a folder without one is no run yet, and the same command starts again."""
    from tavt_kit.checkpoints import save_model
    from tavt_kit.core.records import make_folder, write_record
    from tavt_kit.data import inherit_split

    make_folder(out)
    for name in ("model.json", "model.safetensors", "split.json"):
        (out / name).unlink(missing_ok=True)
    write_record(out / RECORD[0], *RECORD[1:], record)
    inherit_split(out, images)
    save_model(out, model, card)


# -------------------------------------------------------------------------------------------------- pictures


def _judging(card: ModelCard, images: ImageSet, count: int, allow_unreadable: int) -> Pictures:
    import torch

    from tavt_kit.data import load_arrays
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.pruning import Pictures

    read = load_arrays(
        images.split("train"), Preprocessing.from_record(card.preprocessing), limit=count,
        allow_unreadable=allow_unreadable,
    )  # fmt: skip
    return Pictures(torch.from_numpy(read.images), torch.from_numpy(read.labels))


def _evaluation(card: ModelCard, images: ImageSet, limit: int | None, allow_unreadable: int) -> Any:
    """Wrapped model -> which pictures of val it has right, dense."""
    from tavt_kit.data import load_bytes
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.evaluation.evaluator import LeanEvaluator

    preprocessing = Preprocessing.from_record(card.preprocessing)
    read = load_bytes(images.split("val"), preprocessing, limit=limit, allow_unreadable=allow_unreadable)

    def evaluate(model: AdaptiveViT) -> Any:
        return LeanEvaluator(model, read.pixels, read.labels, preprocessing).right(model.dense_schedule)

    return evaluate


def _facts(model: AdaptiveViT) -> dict[str, Any]:
    from tavt_kit.models.macs import count_macs

    return {
        "layers": model.layers,
        "macs": count_macs(model, model.dense_schedule),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _top1(right: Any) -> dict[str, Any]:
    from tavt_kit.core.accuracy import Accuracy

    return Accuracy.of_counts(int(right.sum()), len(right), split="val").as_record()


def _difference(before: Any, after: Any) -> dict[str, Any]:
    from tavt_kit.evaluation.answer import paired

    return paired(before, after).as_record()


# ------------------------------------------------------------------------------------------------ what is told


def _tell(out: Path, run: Path, record: dict[str, Any], as_json: bool) -> int:
    verdict = record["budget"]
    if as_json:
        print(json.dumps({"schema": RECORD[1], "version": RECORD[2], "folder": str(out), **record}))
    else:
        _say(out, run, record)
    return 0 if verdict is None or verdict["verdict"] == "PASS" else 1


def _say(out: Path, run: Path, record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from tavt_kit.core.accuracy import Accuracy

    left = record["left"]
    words = [f"{len(left['layers'])} layers"]
    words += [f"{_runs(left[kind])} {name}" for kind, name in _NAMES.items() if kind in left]
    print(f"{out}: {', '.join(words)} left")
    table = Table(show_edge=False)
    for name in ("", "GMACs", "M parameters", "top-1 on val, % \\[95 %]"):
        table.add_column(name, justify="right" if name else "left")
    for when in ("before", "after"):
        facts, top1 = record[when], Accuracy.from_record(record[when]["top1"])
        table.add_row(
            when, f"{facts['macs'] / 1e9:.3g}", f"{facts['parameters'] / 1e6:.3g}",
            f"{100 * top1.value:.1f} \\[{100 * top1.low:.1f}, {100 * top1.high:.1f}]",
        )  # fmt: skip
    Console().print(table)
    low, high = (100 * end for end in record["difference"]["ci95"])
    print(f"change of top-1, paired: {100 * record['difference']['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]")
    if (verdict := record["budget"]) is not None:
        from tavt_kit.core.budget import Limit

        limit = Limit.parse(verdict["budget"])
        where = f" on {verdict['target']}" if verdict["target"] else ""
        print(f"{limit} under {verdict['schedule']}{where}: {verdict['verdict']} ({limit.show(verdict['value'])})")
    print(f"what was lost has to be learned anew: fgvc-kit distill {out} --teacher {run} -o NEXT")
    for rival in record["dense_rivals"]:
        print(
            f"train a dense {rival['model']} at {rival['image_size']} px as well ({rival['macs'] / 1e9:.3g} GMACs): "
            "pruning often loses to such a model"
        )


_NAMES = {"heads": "heads", "mlp": "feed-forward channels", "width": "embedding channels"}


def _runs(units: Sequence[int]) -> str:
    """``4,4,4`` -> ``4``, where all are alike."""
    return str(units[0]) if len(set(units)) == 1 else ",".join(map(str, units))
