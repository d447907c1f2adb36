"""Registry: what can be chosen by name, of this package and of others that are installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from tavt_kit.errors import TavtError, UnknownName, did_you_mean

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names and what they stand for; another package adds its own by an entry point of the group.

    Names of this package cannot be replaced. What another package adds is imported when it is first asked for.

    Args:
        what: Subject of the sentence about an unknown name, such as ``"a search algorithm"``.
        own: Things of this package; one that is to be imported when it is first asked for is an ``EntryPoint`` too.
        error: Raised about a name that cannot be had.
        kind: What each of them is an instance of.

    Example:
        >>> shapes = Registry("a shape", "tavt_kit.shapes", {"disc": 1, "square": 2})
        >>> shapes["disc"], list(shapes)
        (1, ['disc', 'square'])
        >>> shapes["disk"]
        Traceback (most recent call last):
            ...
        tavt_kit.errors.UnknownName: a shape is one of disc, square, got 'disk'; did you mean disc?
    """

    def __init__(
        self, what: str, group: str, own: Mapping[str, T | EntryPoint], *, error: type[TavtError] = UnknownName,
        kind: type = object,
    ) -> None:  # fmt: skip
        self._what, self._group, self._own, self._error, self._kind = what, group, dict(own), error, kind
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """What a name stands for; an error where nothing has it, or what another package adds cannot be imported."""
        if name not in self._loaded:
            entry = self._own[name] if name in self._own else self._others().get(name)
            if entry is None:
                meant = did_you_mean(name, self)
                raise self._error(f"{self._what} is one of {', '.join(self)}, got {name!r}{meant}")
            theirs = f"{self._what} named {name} is {getattr(entry, 'value', '')} of another package, which"
            try:
                found: Any = entry.load() if isinstance(entry, EntryPoint) else entry
            except Exception as error:  # whatever another package raises while it is imported
                why = f"{type(error).__name__}: {error}"
                raise self._error(f"{theirs} cannot be imported: {why}; repair or remove that package") from None
            if not isinstance(found, self._kind):
                raise self._error(f"{theirs} is no {self._kind.__name__}; repair or remove that package")
            self._loaded[name] = cast(T, found)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others()

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._others()

    def __len__(self) -> int:
        return len(self._own) + len(self._others())

    def _others(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._group) if entry.name not in self._own}
