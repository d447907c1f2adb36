"""How it was measured, where everything comes from, and the commands to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tavt_kit.core.records import sha256_file
from tavt_kit.reports.blocks import Block, Cell, Code, Column, Facts, Inline, Section, Table, Text
from tavt_kit.reports.records import Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import date_text, plural, target_words

__all__ = ["COUNTING", "card_of", "commands_of", "facts_of", "provenance_section", "reproduction_section", "summary"]


COUNTING = (
    "MACs are multiply-adds, one multiplication with its addition counted once; the literature, fvcore and timm call "
    "the same number FLOPs, and so do budgets such as flops=9G."
)
"""Printed once a report."""

_SOURCES = ("front", "final", "bench", "profile", "check", "run")


def provenance_section(records: Records) -> Section:
    """Everything a reader needs to trust, repeat or refuse the figures."""
    rows = facts_of(records)
    blocks: list[Block] = [Text.of(COUNTING)]
    found = hosts(records)
    if len(found) > 1:
        blocks.append(
            Text.of(f"The records come from {len(found)} different machines: {'; '.join(found)}.", kind="warning")
        )
    if rows:
        blocks.append(Facts(tuple(rows)))
    licences = list(_licences(records))
    if licences:
        columns = (Column("What", numeric=False), Column("Licence", numeric=False), Column("Source", numeric=False))
        blocks.append(Table(columns, tuple(licences), "Licences and attributions."))
    return Section("provenance", "Measured how, made of what", tuple(blocks))


def facts_of(records: Records) -> list[tuple[str, Inline]]:
    """Host, target, model, data and versions, as far as they are recorded."""
    return [*_measured(records), *_model(records), *_data(records), *_versions(records)]


def hosts(records: Records) -> list[str]:
    """The processors that the measuring records name, each once."""
    names: list[str] = []
    for kind in ("front", "final", "bench", "profile"):
        for found in records.all(kind):
            name = text(found.body, "host", "cpu")
            if name is not None and name not in names:
                names.append(name)
    return names


def _host(records: Records) -> Mapping[str, Any]:
    for kind in _SOURCES:
        for found in records.all(kind):
            host = mapping(found.body, "host")
            if host:
                return host
    return {}


def _target(records: Records) -> Mapping[str, Any]:
    for kind in ("front", "final", "profile", "bench"):
        target = mapping(records.first(kind), "target")
        if target:
            return target
    return {}


def _measured(records: Records) -> Iterator[tuple[str, Inline]]:
    target, host = _target(records), _host(records)
    if words := target_words(target):
        yield "Target", words
    if cpu := text(host, "cpu"):
        yield "Processor", cpu
    affinity, cores = sequence(host, "affinity"), whole(host, "cores")
    if cores is not None:
        yield "CPUs", f"{len(affinity)} of {cores} usable" if affinity else str(cores)
    if (quota := number(host, "quota")) is not None:
        yield "CPU quota", f"{quota:g} CPUs of time"
    if flags := [flag for flag in sequence(host, "flags") if isinstance(flag, str)]:
        yield "Instruction sets", ", ".join(flags)
    if (memory := whole(host, "memory_mb")) is not None:
        yield "Memory", f"{memory / 1000:.1f} GB"
    if accelerator := text(host, "accelerator"):
        yield "Accelerator", accelerator
    if governor := text(host, "governor"):
        yield "Frequency governor", governor
    if load := [f"{value:g}" for value in sequence(host, "load") if isinstance(value, int | float)]:
        yield "Load (1, 5, 15 min)", ", ".join(load)
    if system := text(host, "os"):
        yield "System", system
    if date := text(host, "date"):
        yield "Date", date_text(date)


def _model(records: Records) -> Iterator[tuple[str, Inline]]:
    card = card_of(records)
    if name := text(card, "name"):
        yield "Model", Code(name)
    if classes := len(sequence(card, "classes")):
        yield "Classes", str(classes)
    size = sequence(mapping(card, "preprocessing"), "image_size")
    if len(size) == 2:
        yield "Image size", f"{size[0]} × {size[1]}"
    if score := text(card, "score"):
        yield "Token score", score
    if provenance := text(card, "provenance"):
        yield "Weights", provenance
    if digest := text(card, "weights_sha256"):
        yield "Weights, SHA-256", Code(digest)


def _data(records: Records) -> Iterator[tuple[str, Inline]]:
    split = records.first("split")
    if name := text(split, "name"):
        yield "Data", name
    parts = [
        f"{len(samples)} {name}" for name, samples in mapping(split, "splits").items() if isinstance(samples, list)
    ]
    if parts:
        yield "Pictures", ", ".join(parts)
    if made := text(split, "made"):
        yield "Split", made
    if (seed := whole(split, "seed")) is not None:
        yield "Seed of the split", str(seed)
    if note := text(split, "note"):
        yield "Note on the data", note
    if digest := text(split, "sha256"):
        yield "Split, SHA-256", Code(digest)
    if (seed := whole(records.first("front"), "seed")) is not None:
        yield "Seed of the search", str(seed)
    if precisions := mapping(records.first("front"), "precisions"):
        words = f"{text(precisions, 'search')} while searching, {text(precisions, 'final')} in the end"
        genes = text(precisions, "genes")
        yield "Evaluated in", f"{words}; candidates in {genes} in their own" if genes else words
    for found in records.all("run"):
        if words := _training(found.body):
            yield ("Distillation" if text(found.body, "verb") == "distill" else "Training"), words


def _training(run: Mapping[str, Any]) -> str:
    """``modern, 300 steps, batch 16, bf16, seed 0``."""
    asked = mapping(run, "asked")
    steps, batch, seed = whole(asked, "steps"), whole(asked, "batch"), whole(asked, "seed")
    parts = [
        text(asked, "recipe"),
        None if steps is None else plural(steps, "step"),
        None if batch is None else f"batch {batch}",
        text(run, "results", "precision") or text(asked, "precision"),
        None if seed is None else f"seed {seed}",
        None if text(run, "status") in (None, "done") else "not ended",
    ]
    return ", ".join(part for part in parts if part)


def _versions(records: Records) -> Iterator[tuple[str, Inline]]:
    host = _host(records)
    packages = [f"{name} {version}" for name, version in mapping(host, "packages").items() if isinstance(version, str)]
    if python := text(host, "python"):
        packages.insert(0, f"Python {python}")
    if packages:
        yield "Versions", ", ".join(packages)


def card_of(records: Records) -> Mapping[str, Any]:
    """The model card: beside the front, or as the front names it."""
    front = records.all("front")
    card = records.beside("model", front[0].path) if front else records.first("model")
    return card or mapping(records.first("front"), "model")


def _licences(records: Records) -> Iterator[tuple[Cell, ...]]:
    """Of the weights, the data they were trained on, and the pictures shown; each once."""
    seen = set()
    entries = list(sequence(card_of(records), "licences"))
    entries += [mapping(found.body, "licence") for kind in ("split", "kept") for found in records.all(kind)]
    for entry in entries:
        row = text(entry, "name"), text(entry, "licence"), text(entry, "source")
        if row[0] is not None and row not in seen:
            seen.add(row)
            yield tuple(Cell(value or "unknown") for value in row)


def summary(records: Records) -> str:
    """One line below the title: the model, the data, the target, the date."""
    parts = [target_words(_target(records))]
    if classes := len(sequence(card_of(records), "classes")):
        parts.append(plural(classes, "class", "classes"))
    if date := text(_host(records), "date"):
        parts.append(date_text(date))
    return " · ".join(part for part in parts if part)


_FLAGS = {
    "data": "--data", "weights": "--weights", "target": "--target", "algorithm": "--algorithm",
    "evaluations": "--evaluations", "population": "--population", "final": "--final", "screen": "--screen",
    "seed": "--seed", "limit": "--limit",
}  # fmt: skip
"""Of a search's ``recipe.json``: what stands as it is."""

_AFTER = ("exported", "check", "bench", "eval", "explained")
"""Records of what is done with the result of a search, in the order of the work."""


def reproduction_section(records: Records) -> Section:
    """The block to copy from."""
    commands = list(commands_of(records))
    blocks: list[Block] = []
    if commands:
        exact = all(given for _, given in commands)
        lead = "in this order" if exact else "the search's put together from what recipe.json has"
        blocks.append(Text.of(f"As they were given, {lead}:"))
        blocks += [Text.of(Code(command, command=True)) for command, _ in commands]
    else:
        blocks.append(Text.of("No record here says by which command it was made.", kind="note"))
    columns = (Column("What", numeric=False), Column("SHA-256", numeric=False))
    rows = tuple((Cell(name), Cell(digest, code=True)) for name, digest in _hashes(records))
    if rows:
        blocks.append(Table(columns, rows, f"Hashes of what went in and came out ({len(rows)}).", folded=True))
    return Section("reproduction", "To do it again", tuple(blocks))


def commands_of(records: Records) -> Iterator[tuple[str, bool]]:
    """Each command once, in the order of the work, and whether it is as it was given."""
    trained = sorted(records.all("run"), key=lambda one: text(one.body, "verb") == "distill")
    found = [(text(one.body, "command"), True) for one in (*trained, *records.all("profile"))]
    front, recipe = records.first("front"), records.first("recipe")
    if command := text(front, "command"):
        found.append((command, True))
    elif recipe:
        found.append((_search(recipe, records.all("recipe")[0].path.parent), False))
    found += [(text(one.body, "command"), True) for kind in _AFTER for one in records.all(kind)]
    yield from dict.fromkeys((command, given) for command, given in found if command)


def _search(recipe: Mapping[str, Any], folder: Path) -> str:
    """A search's command from its recipe."""
    parts = ["fgvc-kit", "search", text(recipe, "model") or "MODEL"]
    for name, flag in _FLAGS.items():
        value = whole(recipe, name) if text(recipe, name) is None else text(recipe, name)
        if value is not None:
            parts += [flag, str(value)]
    for name, flag in (("budgets", "--budget"), ("schedules", "--schedule"), ("objectives", "--objective")):
        for value in sequence(recipe, name):
            parts += [flag, str(value)]
    if (seconds := number(recipe, "max_seconds")) is not None:
        parts += ["--max-time", f"{seconds:g}s"]
    if looks := text(recipe, "evaluate_on"):
        parts += ["--evaluate-on", looks]
    return shlex.join((*parts, "-o", str(folder)))


def _hashes(records: Records) -> Iterator[tuple[str, str]]:
    card, split = card_of(records), records.first("split")
    for name, digest in (("weights", text(card, "weights_sha256")), ("split of the data", text(split, "sha256"))):
        if digest:
            yield name, digest
    for one in records.all("exported"):
        for artifact in sequence(one.body, "artifacts"):
            for name, digest in sorted(mapping(artifact, "sha256").items()):
                if isinstance(digest, str):
                    yield f"{one.path.parent.name}/{name}", digest
    base = Path(records.folders[0]) if records.folders else Path()
    for kind in sorted(records.found):
        for one in records.all(kind):
            if one.path.is_file():
                path = one.path.relative_to(base) if one.path.is_relative_to(base) else one.path
                yield path.as_posix(), sha256_file(one.path)
