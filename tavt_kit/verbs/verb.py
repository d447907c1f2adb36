"""What every verb is: a function of its arguments and settings, whose answer is printed for people or as JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings, takes_progress

_DISPLAYS = {
    "fit": "live:FitProgress",
    "search": "live:SearchProgress",
    "predict": "console:ImageLines",
    "explain": "console:ImageLines",
}
"""Of a verb whose progress is more than stages and lines: the module and class that shows it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb ends with: the object of ``--json`` (None where there is nothing to say), the same for people."""

    record: Any
    show: Callable[[], None]
    code: int = 0


def verb(act: Callable[..., Answer]) -> Callable[..., int]:
    """A verb of the command line: its own arguments, then ``--set``, ``--json`` and ``--config``.

    The function is given the settings by their names, and a ``progress`` where its workflow takes one.
    """
    name = act.__name__.removesuffix("_verb")

    @wraps(act)
    def command(*, settings: list[str], as_json: bool, config: object, **arguments: Any) -> int:
        given = read_settings(name, settings)
        with _progress(name, as_json) as progress:
            answer = act(**arguments, **given, **progress)
        if not as_json:
            answer.show()
        elif answer.record is not None:
            print(json.dumps(answer.record))
        return answer.code

    own = inspect.signature(act, eval_str=True)
    arguments = [entry for entry in own.parameters.values() if entry.kind is entry.POSITIONAL_OR_KEYWORD]
    shared = inspect.signature(_shared, eval_str=True).parameters.values()
    command.__signature__ = own.replace(parameters=[*arguments, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def _shared(*, settings: options.Settings = None, as_json: options.Json = False, config: options.Config = None) -> None:
    """The options of every verb."""


@contextmanager
def _progress(name: str, as_json: bool) -> Iterator[dict[str, Any]]:
    if not takes_progress(name):
        yield {}
        return
    module, _, kind = _DISPLAYS.get(name, "console:ConsoleProgress").partition(":")
    with getattr(import_module(f"tavt_kit.verbs.{module}"), kind)(name, as_json=as_json) as progress:
        yield {"progress": progress}
