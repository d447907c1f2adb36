"""A verb's settings: what its workflow and recipe take beyond the verb's own options, each written once, there.

``--set NAME=VALUE`` gives one, ``--name VALUE`` is short for it, and the file of ``--config`` may name it too.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from tavt_kit.core.parsing import require_counts
from tavt_kit.errors import ParameterError

_WORKFLOWS = {
    "train": "tavt_kit.workflows.train:train",
    "distill": "tavt_kit.workflows.distill:distill",
    "search": "tavt_kit.workflows.search:search",
    "export": "tavt_kit.workflows.export:export",
    "bench": "tavt_kit.workflows.bench:bench",
    "check": "tavt_kit.workflows.check:check",
    "profile": "tavt_kit.workflows.profile:profile",
    "prune": "tavt_kit.workflows.prune:prune",
}
_RECIPES = {"train": "train_recipe", "distill": "distill_recipe"}

_NOT_GIVEN = ("progress", "tensorrt", "name", "family", "evaluation")
"""Parameters that have no form on a command line, and what only the file of a recipe says."""

_ALSO = (
    ("crop_ratio", "ratio"), ("crop_scale", "scale"), ("image_size", "image_sizes"), ("loss_weight", "loss_weights"),
    ("pictures", "image_folder"), ("pictures", "training_images"), ("reduction", "reductions"),
)  # fmt: skip
_OPPOSITE = {"decay_all": "decay_matrices", "share_weights": "own_weights"}
"""Further names on the command line, and what the other side of a switch is called where it is not ``no_...``."""

_METAVARS = {"Mapping": "NAME=NUMBER", "float": "NUMBER", "int": "N"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that a verb takes.

    Args:
        name: Name of the parameter or field.
        kind: Its type, as its annotation says it.
        default: Its default; of a recipe's field that of the verb's own recipe.
        help: Its sentence.
        in_recipe: Whether a recipe has it, where ``"none"`` takes the recipe's value back.
    """

    name: str
    kind: str
    default: Any
    help: str
    in_recipe: bool

    @property
    def words(self) -> set[str]:
        """The types that its annotation names."""
        return set(re.findall(r"\w+", self.kind))

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return "bool" in self.words

    @property
    def repeats(self) -> bool:
        """Whether it may be given several times, once for each value."""
        return bool(self.words & {"Mapping", "Sequence"})

    @property
    def flags(self) -> tuple[str, ...]:
        """What a command line may call it; of a switch both sides."""
        return (_flag(self.name), _flag(_OPPOSITE.get(self.name, f"no_{self.name}")))[: 1 + self.is_switch]

    def help_row(self) -> tuple[str, str]:
        """How ``--help`` shows it."""
        metavar = next((word for kind, word in _METAVARS.items() if kind in self.words), "TEXT")
        more = "" if self.repeats and metavar == "TEXT" or not self.words & {"tuple", "Sequence"} else "[,...]"
        shown = " / ".join(self.flags) if self.is_switch else f"{self.flags[0]} {metavar}{more}"
        parts = self.default if isinstance(self.default, tuple) else (self.default,)
        value = ",".join(f"{part:.4g}" if isinstance(part, float) else _text(part) for part in parts)
        return shown, self.help if self.default in (None, (), {}) else f"{self.help} [default: {value}]"

    def read(self, texts: Sequence[str]) -> Any:
        """The value that texts stand for, of which the last counts unless it repeats.

        Raises:
            ParameterError: One is of another type.
        """
        last, words = texts[-1], self.words
        if last == "none" and "None" in words:
            return "none" if self.in_recipe else None
        if "Mapping" in words:
            return dict(self._entry(part) for text in texts for part in text.split(","))
        if "Sequence" in words and not words & {"int", "float"}:
            return list(texts)
        pieces = [piece.strip() for text in (texts if "Sequence" in words else [last]) for piece in text.split(",")]
        if not words & {"tuple", "Sequence"}:
            return self._plain(last)
        if self.kind == "tuple[str, ...]":
            return tuple(piece for piece in pieces if piece not in ("", "none"))
        values = tuple(self._plain(piece) for piece in pieces)
        # What one number means where several may stand is the field's own affair.
        return values if len(values) > 1 or self.kind == "tuple[int, ...]" else values[0]

    def _entry(self, text: str) -> tuple[str, float]:
        name, _, number = text.partition("=")
        try:
            return name.strip(), float(number)
        except ValueError:
            raise ParameterError(f"`{self.name}` is given as NAME=NUMBER, such as mask=4, got {text!r}") from None

    def _plain(self, text: str) -> Any:
        words = self.words
        if "bool" in words and text.lower() in ("true", "false"):
            return text.lower() == "true"
        for word, kind in (("int", int), ("float", float)):
            try:
                if word in words:
                    return kind(text)
            except ValueError:
                continue
        if "str" in words or not words & {"bool", "int", "float"}:
            return text
        rule = "true or false" if "bool" in words else "a whole number" if "float" not in words else "a number"
        if words & {"tuple", "Sequence"}:
            rule = f"{'whole numbers' if 'int' in words else 'numbers'} with commas between them, such as "
            rule += "5,8" if "int" in words else "0.4,0.4"
        raise ParameterError(f"`{self.name}` is {rule}{', or none' if 'None' in words else ''}, got {text!r}")


@cache
def settings_of(verb: str) -> Mapping[str, Setting]:
    """Every setting of a verb by its name, those included that the verb has options for; none of most verbs."""
    found = [*_of_workflow(_WORKFLOWS[verb])] if verb in _WORKFLOWS else []
    if verb in _RECIPES:
        found += _of_recipe(getattr(importlib.import_module("tavt_kit.distill.recipes"), _RECIPES[verb])())
    named = dict[str, Setting]()
    for one in found:
        if one.name not in _NOT_GIVEN:
            named.setdefault(one.name, one)
    return named


@cache
def setting_flags(verb: str) -> Mapping[str, tuple[Setting, bool]]:
    """What a command line may call a verb's settings, and whether a switch is true by it."""
    known = settings_of(verb)
    also = {_flag(name): (known[meant], True) for name, meant in _ALSO if meant in known}
    return {**also, **{flag: (one, flag == one.flags[0]) for one in known.values() for flag in one.flags}}


def read_settings(verb: str, texts: Sequence[str] | None) -> dict[str, Any]:
    """The values of ``--set``, by the names of the settings.

    Raises:
        ParameterError: A text without a value, a name that the verb does not know, or a value of another type.

    Example:
        >>> read_settings("train", ["resize=600,448", "mixup=0.2", "augment=flip, shift", "clip=none"])
        {'resize': (600, 448), 'mixup': 0.2, 'augment': ('flip', 'shift'), 'clip': 'none'}
    """
    known, given = settings_of(verb), dict[str, list[str]]()
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"a setting is given as NAME=VALUE, such as seed=3, got {text!r}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ParameterError(f"{verb} has no setting {name!r}{meant} (fgvc-kit {verb} --help lists them)")
        given.setdefault(name, []).append(value)
    found = {name: known[name].read(values) for name, values in given.items()}
    require_counts(found)
    return found


def setting_texts(verb: str, name: str, value: Any) -> list[str]:
    """A value of a TOML file as ``--set`` would give it."""
    setting, side = setting_flags(verb)[_flag(name)]
    if isinstance(value, bool):
        parts = [_text(value is side)]
    elif isinstance(value, Mapping):
        parts = [f"{key}={number}" for key, number in value.items()]
    else:
        parts = [_text(one) for one in value] if isinstance(value, list) else [_text(value)]
    return [f"{setting.name}={part}" for part in (parts if setting.repeats else [",".join(parts)])]


def spell_settings(verb: str, arguments: Sequence[str], own: Mapping[str, bool]) -> list[str]:
    """A command line with ``--set`` for each setting, and with the verb's own options for what they are.

    Args:
        verb: Name of the verb.
        arguments: What follows it.
        own: Whether each of the verb's own flags is a switch.

    Raises:
        typer.BadParameter: A setting without a value, or a flag that is nearly one.

    Example:
        >>> spell_settings("train", ["m", "--weight-decay", "0.1", "--set", "lr=1e-3", "--no-probe"], {"--lr": False})
        ['m', '--set', 'weight_decay=0.1', '--lr=1e-3', '--set', 'probe=false']
    """
    flags = {flag: meant for flag, meant in setting_flags(verb).items() if flag not in own}
    rest, found = list(arguments), list[str]()
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        if argument == "--set" and rest or argument.startswith("--set="):
            text = rest.pop(0) if argument == "--set" else argument.removeprefix("--set=")
            name, equals, value = text.partition("=")
            flag = _flag(name.strip())
            if flag not in own:
                name = flags[flag][0].name if flag in flags else name.strip().replace("-", "_")
                found += ["--set", f"{name}{equals}{value}"]
            elif not own[flag]:
                found.append(f"{flag}{equals}{value}")
            elif value.lower() == "true":
                found.append(flag)
            continue
        flag, equals, value = argument.partition("=")
        if flag not in flags:
            if flags and flag.startswith("--") and flag not in own:
                _refuse_nearly(flag, [*own, *flags])
            found.append(argument)
            continue
        setting, side = flags[flag]
        if setting.is_switch:
            value = str(side).lower()
        elif not equals:
            if not rest:
                raise typer.BadParameter("it takes a value", param_hint=flag)
            value = rest.pop(0)
        found += ["--set", f"{setting.name}={value}"]
    return [*found, *rest]


def _refuse_nearly(flag: str, known: Collection[str]) -> None:
    if near := difflib.get_close_matches(flag, known, n=1):
        raise typer.BadParameter(f"there is no such option; did you mean {near[0]}?", param_hint=flag)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    """A value as a command line has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_workflow(home: str) -> Iterator[Setting]:
    """The keywords of a function; its source is read, for importing it would bring torch along."""
    module, name = home.split(":")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    function = next(one for one in body if isinstance(one, ast.FunctionDef) and one.name == name)
    sentences = _sentences(ast.get_docstring(function) or "")
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if argument.annotation is not None and default is not None:
            kind = ast.unparse(argument.annotation)
            yield Setting(argument.arg, kind, ast.literal_eval(default), sentences[argument.arg], in_recipe=False)


def _of_recipe(recipe: Any) -> Iterator[Setting]:
    """The values of a recipe, those of its parts included."""
    from tavt_kit.distill.recipes import parts_of

    parts = parts_of(recipe)
    for part in (recipe, *parts.values()):
        sentences = _sentences(inspect.getdoc(type(part)) or "")
        for one in fields(part):
            if one.name not in parts:
                yield Setting(one.name, str(one.type), getattr(part, one.name), sentences[one.name], in_recipe=True)


def _sentences(docstring: str) -> dict[str, str]:
    """What ``Args`` says of each name."""
    _, _, after = docstring.partition("Args:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", after.split("\n\n")[0], re.MULTILINE)
    return {name: re.sub(r"(?<!\. )None", "none", " ".join(text.replace("`", "").split())) for name, text in entries}
