"""The flags that mean the same in every verb, each defined once, and ``--config`` that reads them from a file."""

from __future__ import annotations

import difflib
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
    known: dict[str, Any] = {}
    for entry in ctx.command.params:  # by its long flags, or an argument by its own name
        flags = [flag.removeprefix("--") for flag in entry.opts if flag.startswith("--")]
        if entry.name != "config":
            known |= dict.fromkeys(flags or [str(entry.name).replace("_", "-")], entry)
    given = {key.replace("_", "-"): value for key, value in values.items()}
    verb = str(ctx.info_name)
    names = sorted({*known, *(flag.removeprefix("--") for flag in setting_flags(verb))})
    if unknown := sorted(set(given) - set(names)):
        near = [match for key in unknown for match in difflib.get_close_matches(key, names, n=1)]
        meant = f" (did you mean {', '.join(near)}?)" if near else ""
        _refuse(f"{path} sets {', '.join(unknown)}{meant}, but {verb} takes {', '.join(names)}")
    settings, defaults = list[str](), dict[str, Any]()
    for key, value in given.items():
        if key not in known:
            settings += setting_texts(verb, key, value)
            continue
        repeats = getattr(known[key], "multiple", False) or known[key].nargs == -1
        if isinstance(value, dict) or (isinstance(value, list) and not repeats):
            _refuse(f"{path} must set {key} to one value, not to {value!r}")
        if isinstance(value, bool) and not getattr(known[key], "is_flag", False):
            _refuse(f"{path} must set {key} to a number or text, not to {value}")
        defaults[str(known[key].name)] = [value] if repeats and not isinstance(value, list) else value
    ctx.meta[_META], ctx.default_map = settings, defaults
    return path


def _after_config(ctx: typer.Context, given: list[str] | None) -> list[str]:
    """The settings of the file, those of the command line in their place."""
    names = {text.partition("=")[0] for text in given or ()}
    return [*(text for text in ctx.meta.get(_META, ()) if text.partition("=")[0] not in names), *(given or ())]


def _refuse(sentence: str) -> NoReturn:
    # Options are read before the verb runs, so the door of cli.py is not in place yet.
    raise typer.BadParameter(sentence, param_hint="--config")


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, or a timm model's name (see `fgvc-kit models`).")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as train, distill, search and others write it.")]
Thing = Annotated[str, typer.Argument(metavar="THING", help="A run folder, or an exported .onnx or .xml file.")]
Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Images of any kind Pillow reads, or folders of them.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of class folders, a CSV list (path,label[,split]), NAME:FOLDER (cub:birds/), elpv or textile."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write; the same command continues it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on stdout.")]
Config = Annotated[
    Path | None,
    typer.Option(help="A TOML file with the same names as the flags.", callback=_read_config, is_eager=True),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", callback=_after_config, help="A setting by its name; repeat for several."
    ),
]
