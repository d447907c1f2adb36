"""An extension of griffe: our docstrings' ``Example:`` is what it calls ``Examples:``, a section of code.

A workflow that takes one class of options (``tavt_kit.core.parsing.taking``) is shown with the fields of that class.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames the section wherever a docstring has it, and gives workflows the parameters that they are called with."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for each module, class, function and attribute that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Called when all of a package has been read."""
        for function in _functions(pkg):
            for decorator in function.decorators:
                called = re.fullmatch(r"taking\((\w+)\)", str(decorator.value))
                if called is not None:
                    _take(function, function.module[called[1]].final_target)


def _functions(of: Any) -> Any:
    for member in of.members.values():
        if member.is_alias:
            continue
        if member.is_module:
            yield from _functions(member)
        elif member.is_function:
            yield member


def _take(function: Any, options: Any) -> None:
    fields = [one for one in options.members.values() if one.is_attribute and one.annotation and one.name != "_"]
    fields = [one for one in fields if "property" not in one.labels]
    kinds = (griffe.ParameterKind.positional_or_keyword, griffe.ParameterKind.keyword_only)
    function.parameters = griffe.Parameters(*(
        griffe.Parameter(one.name, annotation=one.annotation, kind=kinds[index > 0], default=one.value)
        for index, one in enumerate(fields)
    ))  # fmt: skip
    arguments = options.docstring.value.partition("Args:\n")[2].partition("\n\nRaises:")[0]
    said, raises, rest = function.docstring.value.partition("Raises:\n")
    function.docstring.value = f"{said}Args:\n{arguments}\n\n{raises}{rest}"
