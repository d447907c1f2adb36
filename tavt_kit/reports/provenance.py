"""How it was measured, where everything comes from, and the commands to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Code, Facts, Inline, Section, Text
from tavt_kit.reports.records import Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import date_text, plural, target_words

COUNTING = (
    "MACs are multiply-adds, one multiplication with its addition counted once; the literature, fvcore and timm call "
    "the same number FLOPs, and so do budgets such as flops=9G."
)
"""Printed once a report."""


def provenance_section(records: Records) -> Section:
    """Everything a reader needs to trust, repeat or refuse the figures."""
    blocks: list[Block] = [Text.of(COUNTING)]
    measured = (record.body for kind in ("fit", "front", "bench", "profile") for record in records.all(kind))
    hosts = list(dict.fromkeys(name for body in measured if (name := text(body, "host", "cpu"))))
    if len(hosts) > 1:
        warning = f"The records come from {len(hosts)} different machines: {'; '.join(hosts)}."
        blocks.append(Text.of(warning, kind="warning"))
    if facts := facts_of(records):
        blocks.append(Facts(tuple(facts)))
    entries = list(sequence(card_of(records), "licences"))
    entries += [mapping(file.body, "licence") for kind in ("split", "kept") for file in records.all(kind)]
    licences = dict.fromkeys(
        (text(entry, "licence") or "unknown", f"{name}; {text(entry, 'source') or 'source unknown'}")
        for entry in entries
        if (name := text(entry, "name"))
    )
    blocks += [Text.of("Licences and attributions."), Facts(tuple(licences))] if licences else []
    gist = text(_first_with(records, "host"), "cpu") or ""
    return Section("provenance", "Measured how, made of what", tuple(blocks), gist)


def _first_with(records: Records, name: str) -> Mapping[str, Any]:
    """The host or the target of the record that says most of the measurements."""
    kinds: tuple[str, ...] = ("fit", "front", "profile", "bench")
    if name == "host":
        kinds = ("fit", "front", "bench", "profile", "check", "run")
    return next(filter(None, (mapping(record.body, name) for kind in kinds for record in records.all(kind))), {})


def facts_of(records: Records) -> list[tuple[str, Inline]]:
    """Host, target, model, data and versions, as far as they are recorded."""
    host, card = _first_with(records, "host"), card_of(records)
    split, front = records.first("split"), records.first("front")
    usable, cores = len(sequence(host, "affinity")), whole(host, "cores")
    quota, memory = number(host, "quota"), number(host, "memory_mb")
    size = sequence(card, "preprocessing", "image_size")
    load = [f"{value:g}" for value in sequence(host, "load") if isinstance(value, int | float)]
    counts = [f"{len(rows)} {name}" for name, rows in mapping(split, "splits").items() if isinstance(rows, list)]
    versions = [f"{name} {version}" for name, version in mapping(host, "packages").items() if isinstance(version, str)]
    python, genes = text(host, "python"), text(front, "precisions", "genes")
    evaluated = None
    if precisions := mapping(front, "precisions"):
        evaluated = f"{text(precisions, 'search')} while searching, {text(precisions, 'final')} in the end"
        evaluated += f"; candidates in {genes} in their own" if genes else ""
    runs = [file.body for file in records.all("run")]
    facts: list[tuple[str, Inline | int | None]] = [
        ("Target", target_words(_first_with(records, "target"))),
        ("Processor", text(host, "cpu")),
        ("CPUs", f"{usable} of {cores} usable" if usable and cores is not None else cores),
        ("CPU quota", None if quota is None else f"{quota:g} CPUs of time"),
        ("Instruction sets", ", ".join(flag for flag in sequence(host, "flags") if isinstance(flag, str))),
        ("Memory", None if memory is None else f"{memory / 1000:.1f} GB"),
        ("Accelerator", text(host, "accelerator")),
        ("Frequency governor", text(host, "governor")),
        ("Load (1, 5, 15 min)", ", ".join(load)),
        ("System", text(host, "os")),
        ("Date", date_text(text(host, "date")) if text(host, "date") else None),
        ("Model", _code(card, "name")),
        ("Classes", len(sequence(card, "classes")) or None),
        ("Image size", f"{size[0]} × {size[1]}" if len(size) == 2 else None),
        ("Preprocessing", _preprocessing(mapping(card, "preprocessing"))),
        ("Token score", text(card, "score")),
        ("Weights", text(card, "provenance")),
        ("Weights, SHA-256", _code(card, "weights_sha256")),
        ("Data", text(split, "name")),
        ("Images", ", ".join(counts)),
        ("Split", text(split, "made")),
        ("Seed of the split", whole(split, "seed")),
        ("Note on the data", text(split, "note")),
        ("Split, SHA-256", _code(split, "sha256")),
        ("Seed of the search", whole(front, "seed")),
        ("Evaluated in", evaluated),
        *(("Distillation" if text(run, "verb") == "distill" else "Training", _training(run)) for run in runs),
        ("Versions", ", ".join([f"Python {python}", *versions] if python else versions)),
    ]
    return [
        (name, value if isinstance(value, Code) else str(value)) for name, value in facts if value not in (None, "")
    ]


def _code(record: Mapping[str, Any], name: str) -> Code | None:
    value = text(record, name)
    return None if value is None else Code(value)


def _preprocessing(record: Mapping[str, Any]) -> str:
    """How a photograph becomes what the network takes; empty where it is not recorded."""
    resized, crop, share = (text(record, "interpolation"), text(record, "crop_mode"), number(record, "crop_pct"))
    parts = [] if resized is None else [f"resized ({resized})"]
    parts += [] if crop is None or share is None else [f"{words.percent_text(share, 0)} cropped ({crop})"]
    for name, key in (("mean", "mean"), ("deviation", "std")):
        parts += [f"{name} {', '.join(map(str, values))}"] if (values := sequence(record, key)) else []
    return "; ".join(parts)


def _training(run: Mapping[str, Any]) -> str:
    """``modern at 112 px, 300 steps, batch 16, bf16, seed 0``."""
    asked = mapping(run, "asked")
    size = sequence(asked, "image_size")
    steps, batch, seed = whole(asked, "steps"), whole(asked, "batch"), whole(asked, "seed")
    parts = (
        f"{text(asked, 'recipe') or ''}{f' at {size[-1]} px' if size else ''}",
        None if steps is None else plural(steps, "step"),
        None if batch is None else f"batch {batch}",
        text(run, "results", "precision") or text(asked, "precision"),
        None if seed is None else f"seed {seed}",
        None if text(run, "status") in (None, "done") else "not ended",
    )
    return ", ".join(filter(None, parts))


def card_of(records: Records) -> Mapping[str, Any]:
    """The model card: beside the front, or as the front names it."""
    beside = {record.path.parent for record in records.all("front")[:1]}
    same = (record.body for record in records.all("model") if record.path.parent in beside)
    return next(same, records.first("model")) or mapping(records.first("front"), "model")


def summary(records: Records) -> str:
    """One line below the title: the model, the data, the target, the date."""
    classes, date = len(sequence(card_of(records), "classes")), text(_first_with(records, "host"), "date")
    named, target = plural(classes, "class", "classes") if classes else "", _first_with(records, "target")
    return " · ".join(filter(None, (target_words(target), named, date_text(date) if date else "")))


def reproduction_section(records: Records) -> Section:
    """The block to copy from; ``report.json`` has the hashes of all records."""
    commands = commands_of(records)
    if not commands:
        nothing = Text.of("No record here says by which command it was made.", kind="note")
        return Section("reproduction", "To do it again", (nothing,))
    lead, lines = Text.of("As they were given, in this order:"), (Code(command, command=True) for command in commands)
    blocks = (lead, *map(Text.of, lines))
    return Section("reproduction", "To do it again", blocks, words.plural(len(commands), "command"))


def commands_of(records: Records) -> list[str]:
    """Each recorded command once, in the order of the work; what was called from Python has none."""
    works = sorted(records.all("run"), key=lambda record: text(record.body, "verb") == "distill")
    for kind in ("prune", "profile", "front", "exported", "check", "bench", "fit", "eval", "explained"):
        works += records.all(kind)
    return list(dict.fromkeys(command for record in works if (command := text(record.body, "command"))))
