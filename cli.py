"""fgvc-kit: the table of verbs, and the door that turns what went wrong into a sentence and an exit code.

Exit codes: 0 done; 1 a verdict is not PASS; 2 bad input or an infeasible request; 130 interrupted; 70 our bug.
A verb is a plain function in ``tavt_kit/verbs``; its docstring is its help, and its module imports nothing heavy.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tavt_kit import __version__
from tavt_kit.errors import TavtError

VERBS = {
    "train": "tavt_kit.verbs.train:train_verb",
    "distill": "tavt_kit.verbs.distill:distill_verb",
    "search": "tavt_kit.verbs.search:search_verb",
    "export": "tavt_kit.verbs.export:export_verb",
    "check": "tavt_kit.verbs.check:check_verb",
    "bench": "tavt_kit.verbs.bench:bench_verb",
    "profile": "tavt_kit.verbs.profile:profile_verb",
    "report": "tavt_kit.verbs.report:report_verb",
    "show": "tavt_kit.verbs.show:show_verb",
    "eval": "tavt_kit.verbs.eval:eval_verb",
    "predict": "tavt_kit.verbs.predict:predict_verb",
    "models": "tavt_kit.verbs.models:models_verb",
    "datasets": "tavt_kit.verbs.datasets:datasets_verb",
    "doctor": "tavt_kit.verbs.doctor:doctor_verb",
    "demo": "tavt_kit.verbs.demo:demo_verb",
}

OK, BAD_INPUT, INTERRUPTED, BUG = 0, 2, 130, 70


class Verbs(TyperGroup):
    """The verbs of the table, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module, function = VERBS[cmd_name].split(":")
        verb = getattr(importlib.import_module(module), function)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command(cmd_name)(_behind_the_door(cmd_name, verb))
        return typer.main.get_command(app)


def _behind_the_door(name: str, verb: Callable[..., int | None]) -> Callable[..., None]:
    """Run a verb; turn what it returns or raises into an exit code."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = verb(*args, **kwargs) or OK
        except TavtError as error:
            _say(f"fgvc-kit {name}: {error}")
            code = BAD_INPUT
        except KeyboardInterrupt:
            _say(f"fgvc-kit {name}: interrupted; the same command goes on from what is finished")
            code = INTERRUPTED
        except BrokenPipeError:
            # Nobody reads us any more (`fgvc-kit show | head`); keep the interpreter from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = OK
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception:
            traceback.print_exc()
            _say(f"fgvc-kit {name}: this is a bug in fgvc-kit; please report it with the lines above")
            code = BUG
        raise typer.Exit(code)

    return run


def _say(sentence: str) -> None:
    print(" ".join(sentence.split()), file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fgvc-kit {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Verbs, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


@app.callback()
def fgvc_kit(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done, to stderr.")] = False,
) -> None:
    """Fit a fine-grained Vision Transformer into a latency budget on the machine it will run on."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    app(args=_model_first(list(sys.argv[1:] if arguments is None else arguments)), prog_name="fgvc-kit")


def _model_first(arguments: list[str]) -> list[str]:
    """``--model X`` is an alias for the first argument of a verb."""
    for i, argument in enumerate(arguments):
        value = argument.removeprefix("--model=") if argument.startswith("--model=") else None
        if argument == "--model" and i + 1 < len(arguments):
            return [*arguments[:1], arguments[i + 1], *arguments[1:i], *arguments[i + 2 :]]
        if value is not None:
            return [*arguments[:1], value, *arguments[1:i], *arguments[i + 1 :]]
    return arguments


if __name__ == "__main__":
    main()
