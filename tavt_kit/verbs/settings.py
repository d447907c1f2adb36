"""A verb's settings: what its workflow and recipe take, each written once, there, with its sentence and its default.

``--name VALUE`` gives one, ``--set NAME=VALUE`` is the same, and the file of ``--config`` may name it too.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import typer

from tavt_kit.core.parsing import require_counts
from tavt_kit.errors import ParameterError, did_you_mean

_WORKFLOWS = {
    "fit": ("fit:fit", "target budget max_time model weights image_size seed fresh"),
    "train": ("train:train", "data recipe weights image_size steps batch lr device seed limit fresh"),
    "distill": ("distill:distill", "data recipe schedule schedules teacher steps batch lr device seed control fresh"),
    "average": ("average:average", "data limit fresh"),
    "prune": ("prune:prune", "data mlp heads depth fresh"),
    "search": ("search:search", "data target budget schedule algorithm objective evaluations max_time fix "
               "baseline seed fresh"),
    "export": ("export:export", "out schedule pick switchable format precision data max_drop accept_inconclusive "
               "unlabelled target fresh"),
    "check": ("check:check", "against schedule predictions data max_drop accept_inconclusive "
              "unlabelled target out"),
    "bench": ("bench:bench", "target schedule pick weights precision budget memory out seed"),
    "profile": ("profile:profile", "target weights image_size held_out max_time out seed"),
    "report": ("report:report", "out"),
    "eval": ("evaluate:evaluate", "data split schedule pick target batch limit out"),
    "predict": ("predict:predict", "top schedule pick target batch out"),
    "explain": ("explain:explain", "out schedule pick limit"),
    "compare": ("compare:compare", "threshold drop reference across"),
    "show": ("report:show", "pick knee"),
    "models": ("catalogue:models", ""),
    "datasets": ("catalogue:datasets", "get seed"),
    "doctor": ("doctor:doctor", ""),
    "push": ("hub:push", "private"),
    "pull": ("hub:pull", "revision"),
    "convert": ("checkpoints/convert:convert", "image_size heads slide_step family num_token num_selects name"),
}  # fmt: skip
"""Of each verb the module (in ``workflows`` unless it says where) and function of its workflow, and the settings that
``--help`` shows among the options."""

_OPTIONS = {"search": "search_config:SearchConfig"}
"""Of a workflow that takes one class of options: that class, whose fields are the settings."""
_RECIPES = {"train": "train_recipe", "distill": "distill_recipe"}

_NOT_GIVEN = ("progress", "classes")
"""Parameters that a verb reads in its own way or not at all."""
_OF_FILES = ("name", "family", "evaluation")
"""What only the file of a recipe says."""

_ALSO = (
    ("crop_ratio", "ratio"), ("crop_scale", "scale"), ("drop", "max_drop"), ("image_size", "image_sizes"),
    ("loss_weight", "loss_weights"), ("pictures", "training_images"), ("preset", "schedule"),
    ("reduction", "reductions"), ("seed_schedules", "schedule"),
)  # fmt: skip
_OPPOSITE = {"decay_all": "decay_matrices", "private": "public"}
"""Further names on the command line, and what the other side of a switch is called where it is not ``no_...``."""

_METAVARS = {"Mapping": "NAME=NUMBER", "str": "TEXT", "float": "NUMBER", "int": "N"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that a verb takes: its type as its annotation says it, and its default, that of the verb's own recipe.

    Where it is ``in_recipe``, ``"none"`` takes the recipe's value back.
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
        if self.default is False and not self.in_recipe:
            shown = self.flags[0]
        parts = self.default if isinstance(self.default, tuple) else (self.default,)
        value = ",".join(f"{part:.4g}" if isinstance(part, float) else _text(part) for part in parts)
        said = f"{self.help} Repeat for several." if self.repeats and not more else self.help
        shown = f"-o, {shown}" if self.name == "out" else shown
        nothing = self.default is False or self.default in (None, (), {})
        return shown, said if nothing else f"{said} [default: {value}]"

    def read(self, texts: Sequence[str]) -> Any:
        """The value of texts, the last of them unless it repeats; ParameterError where one is of another type."""
        last, words = texts[-1], self.words
        if last == "none" and "None" in words:
            return "none" if self.in_recipe else None
        if "Mapping" in words:
            entries = dict[str, float]()
            for part in ",".join(texts).split(","):
                name, _, number = part.partition("=")
                try:
                    entries[name.strip()] = float(number)
                except ValueError:
                    example = "such as mask=4"
                    raise ParameterError(f"`{self.name}` is given as NAME=NUMBER, {example}, got {part!r}") from None
            return entries
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
    """Every setting of a verb by its name; none of a verb without a workflow."""
    settings = list(_parameters(verb)) if verb in _WORKFLOWS else []
    if verb in _RECIPES:
        from tavt_kit.distill import recipes

        recipe = getattr(recipes, _RECIPES[verb])()
        parts = recipes.parts_of(recipe)
        for part in (recipe, *parts.values()):
            said = _sentences(inspect.getdoc(type(part)) or "")
            names = {value.name: str(value.type) for value in fields(part) if value.name not in (*parts, *_OF_FILES)}
            settings += [Setting(name, kind, getattr(part, name), said[name], True) for name, kind in names.items()]
    named = dict[str, Setting]()
    for setting in settings:  # a workflow's own sentence and default come before its recipe's
        if setting.name not in _NOT_GIVEN:
            named.setdefault(setting.name, setting)
    return named


def takes_progress(verb: str) -> bool:
    """Whether the workflow of a verb tells a watcher what it does."""
    return any(setting.name == "progress" for setting in _parameters(verb))


def shown_settings(verb: str) -> list[Setting]:
    """The settings that ``--help`` shows among the options."""
    return [settings_of(verb)[name] for name in _WORKFLOWS[verb][1].split()] if verb in _WORKFLOWS else []


@cache
def setting_flags(verb: str) -> Mapping[str, tuple[Setting, bool]]:
    """What a command line may call a verb's settings, and whether a switch is true by it."""
    known = settings_of(verb)
    also = {_flag(name): (known[meant], True) for name, meant in _ALSO if meant in known}
    short = {"-o": (known["out"], True)} if "out" in known else {}
    own = {flag: (setting, flag == setting.flags[0]) for setting in known.values() for flag in setting.flags}
    return {**also, **short, **own}


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
            meant = did_you_mean(name, known)
            raise ParameterError(f"{verb} has no setting {name!r}{meant} (fgvc-kit {verb} --help lists them)")
        given.setdefault(name, []).append(value)
    values = {name: known[name].read(texts) for name, texts in given.items()}
    require_counts(values)
    return values


def setting_texts(verb: str, name: str, value: Any) -> list[str]:
    """A value of a TOML file as ``--set`` would give it."""
    setting, side = setting_flags(verb)[_flag(name)]
    if isinstance(value, bool):
        parts = [_text(value is side)]
    elif isinstance(value, Mapping):
        parts = [f"{key}={number}" for key, number in value.items()]
    else:
        parts = [_text(part) for part in value] if isinstance(value, list) else [_text(value)]
    return [f"{setting.name}={part}" for part in (parts if setting.repeats else [",".join(parts)])]


def spell_settings(verb: str, arguments: Sequence[str], own: Mapping[str, bool]) -> list[str]:
    """A command line with ``--set`` for each setting, and the verb's ``own`` options, switches or not, as they are.

    Raises:
        typer.BadParameter: A setting without a value, or a flag that is nearly one.

    Example:
        >>> spell_settings("train", ["m", "--weight-decay", "0.1", "--set", "lr=1e-3", "--no-probe"], {"--lr": False})
        ['m', '--set', 'weight_decay=0.1', '--lr=1e-3', '--set', 'probe=false']
    """
    flags = {flag: meant for flag, meant in setting_flags(verb).items() if flag not in own}
    rest, spelled = list(arguments), list[str]()
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        if argument == "--set" and rest or argument.startswith("--set="):
            text = rest.pop(0) if argument == "--set" else argument.removeprefix("--set=")
            name, equals, value = text.partition("=")
            flag = _flag(name.strip())
            if flag not in own:
                name = flags[flag][0].name if flag in flags else name.strip().replace("-", "_")
                spelled += ["--set", f"{name}{equals}{value}"]
            elif not own[flag]:
                spelled.append(f"{flag}{equals}{value}")
            elif value.lower() == "true":
                spelled.append(flag)
            continue
        if argument == "--dense" and {"--pick", "--schedule"} <= flags.keys():
            argument = "--schedule=dense"
        flag, equals, value = argument.partition("=")
        if argument[:2] in flags:  # -oFOLDER
            flag, equals, value = argument[:2], argument[2:], argument[2:]
        if flag not in flags:
            if flags and flag.startswith("--") and flag not in own:
                if near := did_you_mean(flag, [*own, *flags]):
                    raise typer.BadParameter(f"there is no such option{near}", param_hint=flag)
            spelled.append(argument)
            continue
        setting, side = flags[flag]
        if setting.is_switch:
            value = str(side).lower()
        elif not equals:
            if not rest:
                raise typer.BadParameter("it takes a value", param_hint=flag)
            value = rest.pop(0)
        spelled += ["--set", f"{setting.name}={value}"]
    return [*spelled, *rest]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    """A value as a command line has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def help_of(verb: str) -> str:
    """What the docstring of a verb's workflow says before its arguments, parameters written as flags."""
    docstring = ast.get_docstring(_source(_WORKFLOWS[verb][0])) if verb in _WORKFLOWS else None
    said = re.split(r"\n\n(?:Args|Raises|Example):\n", docstring or "")[0]
    return _as_flags(said, {*settings_of(verb), "out"}).replace("``", "")


def summary_of(verb: str) -> str | None:
    """The first sentence of that."""
    said = ast.get_docstring(_source(_WORKFLOWS[verb][0])) if verb in _WORKFLOWS else None
    return None if said is None else said.partition("\n")[0].replace("``", "")


@cache
def _source(where: str) -> ast.FunctionDef | ast.ClassDef:
    """The source of a workflow or of its options; importing it would bring torch along."""
    module, name = where.split(":")
    file = Path(__file__).parents[1] / f"{module if '/' in module else f'workflows/{module}'}.py"
    text = file.read_text(encoding="utf-8")
    source = re.search(rf"^(?:def|class) {name}\b.*?\n(?=\S(?<!\)))", text + "\n#", re.MULTILINE | re.DOTALL)
    assert source is not None
    (found,) = ast.parse(source[0]).body
    assert isinstance(found, ast.FunctionDef | ast.ClassDef)
    return found


def _parameters(verb: str) -> Iterator[Setting]:
    """The arguments of a verb's workflow, or the fields of its options, that have a default."""
    source = _source(_OPTIONS.get(verb, _WORKFLOWS[verb][0]))
    entries = list[tuple[str, ast.expr | None, ast.expr | None]]()
    if isinstance(source, ast.ClassDef):
        fields_ = [line for line in source.body if isinstance(line, ast.AnnAssign)]
        entries += [(ast.unparse(line.target), line.annotation, line.value) for line in fields_]
    else:
        arguments = [*source.args.args, *source.args.kwonlyargs]
        without = [None] * (len(source.args.args) - len(source.args.defaults))
        defaults = [*without, *source.args.defaults, *source.args.kw_defaults]
        entries += [(entry.arg, entry.annotation, value) for entry, value in zip(arguments, defaults, strict=True)]
    sentences = _sentences(ast.get_docstring(source) or "")
    for name, kind, default in entries:
        if kind is not None and default is not None:
            yield Setting(name, ast.unparse(kind), ast.literal_eval(default), sentences[name], in_recipe=False)


def _as_flags(text: str, names: Collection[str]) -> str:
    """A docstring's text with the parameters that it names as a command line has them."""
    return re.sub(r"``(\w+)``", lambda match: _flag(match[1]) if match[1] in names else match[0], text)


def _sentences(docstring: str) -> dict[str, str]:
    """What ``Args`` says of each name."""
    _, _, after = docstring.partition("Args:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", after.split("\n\n")[0], re.MULTILINE)
    known = {name for name, _ in entries}
    plain = {name: " ".join(_as_flags(text, known).replace("`", "").split()) for name, text in entries}
    return {name: re.sub(r"(?<!\. )None", "none", text) for name, text in plain.items()}
