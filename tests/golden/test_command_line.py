"""The options and settings of every verb with their metavars and defaults, and the exit codes of wrong calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from tavt_kit import cli
from tavt_kit.verbs.settings import settings_of
from tests.golden.golden import Golden
from tests.verbs.command import run


def options(command: Any, context: Any) -> dict[str, Any]:
    """Each option and argument by its longest name: how help shows it, and its default."""
    found = {}
    for parameter in command.params:
        shown, _ = parameter.get_help_record(context)
        kind = {"shown": shown, "default": plain(parameter.default), "required": parameter.required}
        found[max(parameter.opts, key=len)] = kind
    return found


def plain(default: Any) -> Any:
    """A default as JSON has it."""
    return default if default is None or isinstance(default, bool | int | float) else str(default)


def settings(verb: str, own: dict[str, Any]) -> dict[str, Any]:
    """Each setting that is no option, likewise."""
    found = {
        one.flags[0]: {"shown": one.help_row()[0], "default": plain(one.default)} for one in settings_of(verb).values()
    }
    return {flag: kind for flag, kind in found.items() if flag not in own}


def test_the_options_of_every_verb(golden: Golden) -> None:
    main = typer.main.get_command(cli.app)
    context = main.make_context("fgvc-kit", ["show"], resilient_parsing=True)
    table = {"": options(main, context)}
    for verb in main.list_commands(context):  # type: ignore[attr-defined]
        command = main.get_command(context, verb)  # type: ignore[attr-defined]
        table[verb] = options(command, typer.Context(command, info_name=verb))
        if more := settings(verb, table[verb]):
            table[f"{verb}, settings"] = more
    golden.compare("options", table)


WRONG: dict[str, tuple[str, ...]] = {
    "no verb of that name": ("serch",),
    "no argument": ("show",),
    "unknown option": ("show", "{run}", "--colour", "red"),
    "no number": ("search", "{run}", "-o", "{out}", "--seed", "one"),
    "no folder": ("show", "{out}"),
    "a run that is no search": ("show", "{run}"),
    "no budget of that name": ("search", "{run}", "-o", "{out}", "--data", "{data}", "--budget", "flops=1 parsec"),
    "a budget nothing fits": ("search", "{run}", "-o", "{out}", "--data", "{data}", "--budget", "flops=1K"),
    "a latency without a target": ("search", "{run}", "-o", "{out}", "--data", "{data}", "--budget", "latency=1ms"),
    "no target of that name": ("bench", "{run}", "--target", "abacus:cpu", "-o", "{out}"),
    "a schedule that grows": ("export", "{run}", "--data", "{data}", "--schedule", "9,12,12,12", "-o", "{out}"),
    "no format of that name": ("export", "{run}", "--data", "{data}", "--format", "papyrus", "-o", "{out}"),
    "no recipe of that name": ("train", "{run}", "--data", "{data}", "--recipe", "soup", "-o", "{out}"),
    "no data": ("eval", "{run}", "--data", "{out}"),
    "no timm model of that name": ("profile", "vit_tinny_patch16_224"),
    "a threshold that is none": ("compare", "{run}", "{run}", "--threshold", "much"),
    "version": ("--version",),
}


def test_the_exit_codes_of_wrong_calls(
    golden: Golden, start: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {}
    for what, words in WRONG.items():
        codes[what] = run(*(word.format(run=start, data=data, out=tmp_path / what) for word in words))
        said = capsys.readouterr()
        assert bool(said.err) == (codes[what] != 0), f"{what}: {said}"
    golden.compare("exit-codes", codes)
