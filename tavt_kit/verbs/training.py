"""``train``, ``distill``, ``average``, ``prune`` and ``convert``: the verbs that write a model's run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.verb import Answer, verb

if TYPE_CHECKING:
    from tavt_kit.workflows.prune import PruneResult


@verb
def train_verb(model: options.Model, out: options.Out, **given: Any) -> Answer:
    """Defaults of the settings are those of the recipe probe, which --recipe replaces; run.json records all of them."""
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.workflows.train import train

    result = train(model, out, **given)

    def show() -> None:
        schedule = result.record["asked"].get("schedule", "dense")
        print(f"{result.folder}: {schedule} top-1 {result.top1}")
        if probe := result.record["results"].get("probe"):
            print(f"head: penalty {probe['penalty']:g}, top-1 {Accuracy.from_record(probe['accuracy'])}")

    return Answer(result.record, show)


@verb
def distill_verb(model: options.Run, out: options.Out, **given: Any) -> Answer:
    """Defaults of the settings are those of the recipe modern, unless --recipe is given; run.json records them all."""
    from tavt_kit.core.records import command_line
    from tavt_kit.reports.records import gather
    from tavt_kit.reports.training import ladder_section
    from tavt_kit.verbs.tables import print_section
    from tavt_kit.workflows.distill import CONTROL, distill

    result = distill(model, out, **given)

    def show() -> None:
        print_section(ladder_section(gather([result.folder])))
        loop, control = result.record["results"]["loop"], result.folder / CONTROL
        pace = "" if loop["seconds_per_step"] is None else f", {loop['seconds_per_step']:.2f} s a step"
        print(f"{result.folder}: {loop['steps']} steps in {loop['seconds']:.0f} s{pace}")
        if given.get("control"):
            both, alone = (shlex.quote(str(folder)) for folder in (result.folder.parent, result.folder))
            print(f"both: fgvc-kit report {both}; what distillation gave beyond it: fgvc-kit compare {alone} {both}")
        elif not control.exists() and (command := command_line()) is not None:
            print(f"what fine-tuning alone gives: {command} --control -o {shlex.quote(str(control))}")

    return Answer(result.record, show)


@verb
def average_verb(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, two or more.", metavar="RUN...")],
    out: options.Out,
    **given: Any,
) -> Answer:
    """Prints a line for each run: its own top-1, and the mean's at its image size."""
    from tavt_kit.reports.training import average_table
    from tavt_kit.verbs.tables import print_blocks
    from tavt_kit.workflows.average import average

    result = average(runs, out, **given)

    def show() -> None:
        print(f"{result.folder}: one network for all of these")
        print_blocks([average_table(result.record)])

    return Answer({**result.record, "folder": str(result.folder)}, show)


@verb
def prune_verb(run: options.Run, out: options.Out, **given: Any) -> Answer:
    """What is left is a run as any other; distill it next."""
    from tavt_kit.workflows.prune import prune

    result = prune(run, out, **given)
    about = {key: result.record[key] for key in ("schema", "version")}
    record = {**about, "folder": str(result.folder), **result.record}
    return Answer(record, lambda: _print_pruned(result))


_UNITS = {"heads": "heads", "mlp": "feed-forward channels"}


def _print_pruned(result: PruneResult) -> None:
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.reports.candidates import Estimate, points_of
    from tavt_kit.verbs.console import print_table

    record, left = result.record, result.record["left"]
    words = [f"{len(left['layers'])} layers"]
    for kind, name in _UNITS.items():
        if units := left.get(kind):  # 4,4,4 is 4, where all are alike
            words.append(f"{units[0] if len(set(units)) == 1 else ','.join(map(str, units))} {name}")
    print(f"{result.folder}: {', '.join(words)} left")
    rows = []
    for when in ("before", "after"):
        facts, top1 = record[when], Accuracy.from_record(record[when]["top1"])
        shown = f"{100 * top1.value:.1f} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
        rows.append((when, f"{facts['macs'] / 1e9:.3g}", f"{facts['parameters'] / 1e6:.3g}", shown))
    print_table(("", "GMACs", "M parameters", "top-1 on val, % [95 %]"), rows)
    change = Estimate.of(record["difference"], "difference")
    print(f"change of top-1, paired: {points_of(change)} points, 95 % {change.points if change else ''}")
    print(f"what was lost has to be learned anew: fgvc-kit distill {result.folder} --teacher {result.run} -o NEXT")
    print("pruning often loses to a dense model that is smaller, or sees smaller images: train one as well")


@verb
def convert_verb(
    file: Annotated[
        Path,
        typer.Argument(
            help="A .bin, .pt, .pth, .pth.tar or .safetensors of TAVT, FFVT, TransFG, Mix-ViT, PIM, ViTAE, "
            "ViT-pytorch or timm, or Google's .npz."
        ),
    ],
    out: options.Out,
    data: options.Data = None,
    **given: Any,
) -> Answer:
    """The run folder is what train, distill, search, eval and export take.

    --data names the classes; without it they are numbered.
    """
    from tavt_kit.checkpoints import save_model
    from tavt_kit.checkpoints.convert import convert
    from tavt_kit.core.lock import held_folder
    from tavt_kit.core.records import label_record
    from tavt_kit.data import load_images
    from tavt_kit.models.backbones import make_adapter

    model, card = convert(file, classes=None if data is None else load_images(data).classes, **given)
    with held_folder(out):
        card = save_model(out, model, card)

    def show() -> None:
        adapter, (height, width) = make_adapter(model), card.preprocessing["image_size"]
        print(
            f"{out}: {card.name}, {len(card.classes)} classes, {width}x{height} px, {adapter.tokens} tokens, "
            f"{adapter.layers} layers, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; "
            f"{card.provenance}"
        )

    return Answer(label_record("model", {"folder": str(out), **card.as_record()}), show)
