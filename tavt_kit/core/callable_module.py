"""Packages that can be called: ``tavt_kit.search`` is a package and ``tk.search(...)`` is its workflow."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """A module whose call is that of the function of its own name in ``tavt_kit.workflows``.

    Names in its ``_HOMES`` are imported from these submodules when they are first used.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As the workflow."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"tavt_kit.workflows.{name}"), name)(*args, **options)

    def __getattr__(self, name: str) -> Any:
        home = self.__dict__.get("_HOMES", {}).get(name)
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{self.__name__}.{home}"), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__dict__.get("_HOMES", ())})


def make_callable(name: str) -> None:
    """Let a package be called as its workflow.

    ``import tavt_kit.search`` binds ``tavt_kit.search`` to the package, whatever the name meant before, so the package
    itself has to be what ``tk.search(...)`` calls.
    """
    sys.modules[name].__class__ = _CallableModule
