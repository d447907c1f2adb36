"""Recipes by name: TOML files beside the code, and those of users.

A file holds values by the names of ``TrainRecipe`` or ``DistillRecipe`` and its parts; ``base`` names another recipe to
start from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tavt_kit.core.parsing import parse_toml
from tavt_kit.distill.changes import changed
from tavt_kit.distill.recipe import DistillRecipe, TrainRecipe
from tavt_kit.errors import TrainingError, UnknownName

_FOLDER = Path(__file__).resolve().parent / "presets"
_FLAGS_ONLY = ("name", "seed", "limit")

_Recipe = TypeVar("_Recipe", TrainRecipe, DistillRecipe)


@dataclass(frozen=True, slots=True)
class _Presets(Generic[_Recipe]):
    """The recipes of one verb.

    Args:
        what: For people.
        folder: Of its files.
        start: What a file without ``base`` starts from.
    """

    what: str
    folder: Path
    start: _Recipe

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(file.stem for file in self.folder.glob("*.toml")))

    def named(self, name: str, above: tuple[str, ...] = ()) -> _Recipe:
        """What a file says on top of what it starts from."""
        if name in above:
            raise TrainingError(f"recipes start from one another in a circle: {', '.join((*above, name))}; break it")
        values = _read(self._file(name))
        base = values.pop("base", None)
        if not isinstance(base, str | None):
            raise TrainingError(f"base of the recipe {name} must be the name of another, got {base!r}")
        if flags := sorted(set(values) & {*_FLAGS_ONLY}):
            raise TrainingError(
                f"the recipe {name} sets {', '.join(flags)}, which are no part of a recipe; remove them"
            )
        start = self.start if base is None else self.named(base, (*above, name))
        try:
            return changed(start, {"name": Path(name).stem, **values})
        except (TrainingError, UnknownName) as error:
            raise type(error)(f"the recipe {name} cannot be used: {error}") from None

    def _file(self, name: str) -> Path:
        preset = self.folder / f"{name}.toml"
        if "/" not in name and preset.is_file():
            return preset
        if name.endswith(".toml"):
            return Path(name).expanduser()
        names = self.names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownName(f"a {self.what} recipe is one of {', '.join(names)}, or a TOML file, got {name!r}{meant}")


_TRAINING = _Presets("training", _FOLDER, TrainRecipe())
_DISTILLATION = _Presets("distillation", _FOLDER / "distill", DistillRecipe())


def recipe_names(family: str | None = None) -> tuple[str, ...]:
    """The names of all training recipes; of those that a model family can use, those for any model included."""
    names = _TRAINING.names()
    return tuple(name for name in names if family is None or _TRAINING.named(name).family in (None, family))


def train_recipe(name: str = "probe", **changes: Any) -> TrainRecipe:
    """A recipe with some values changed, wherever they lie; None changes nothing.

    The size that images are resized to before they are cropped keeps its proportion to ``image_size``, unless both
    are given.

    Args:
        name: One of ``recipe_names``, or the path of a TOML file.
        **changes: As flags; see ``changes.changed``.

    Raises:
        UnknownName: No such recipe, or a value that is none of the known ones.
        TrainingError: A file that cannot be read, an unknown name in it, or a value out of its range.

    Example:
        >>> train_recipe("tavt-cub", image_size=224).reading.resize
        (300, 300)
    """
    _refuse_both(changes)
    recipe = _TRAINING.named(name)
    size = changes.get("image_size")
    if size is not None and changes.get("resize") is None:
        changes["resize"] = _scaled(recipe, size)
    return changed(recipe, changes)


def distill_recipe(name: str = "modern", **changes: Any) -> DistillRecipe:
    """A recipe with some values changed, wherever they lie; None changes nothing, ``"none"`` takes a value back.

    Args:
        name: ``"modern"``, ``"merge"``, ``"tavt"``, or the path of a TOML file.
        **changes: As flags; see ``changes.changed``.

    Raises:
        UnknownName: No such recipe.
        TrainingError: A file that cannot be read, an unknown name in it, or a value out of its range.

    Example:
        >>> distill_recipe("tavt", steps=10, bound=0.3).optimisation.steps
        10
    """
    return changed(_DISTILLATION.named(name), changes)


def _scaled(recipe: TrainRecipe, size: int) -> int | tuple[int, int] | None:
    """The recipe's size before the crop, in proportion to another input size."""
    before, resize = recipe.image_size, recipe.reading.resize
    if before is None or resize is None:
        return resize
    if isinstance(resize, int):
        return round(resize * size / before)
    height, width = (round(edge * size / before) for edge in resize)
    return height, width


def _read(file: Path) -> dict[str, Any]:
    try:
        return parse_toml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"cannot read the recipe {file}: {error.strerror}") from None
    except ValueError as error:
        raise TrainingError(f"the recipe {file} is not a TOML file: {error}") from None


def _refuse_both(changes: Mapping[str, Any]) -> None:
    """Epochs decide the steps."""
    if changes.get("epochs") not in (None, "none") and changes.get("steps") is not None:
        raise TrainingError(
            f"`epochs={changes['epochs']}` decides the updates, so leave out `steps={changes['steps']}`"
        )
