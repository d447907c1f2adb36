"""HTML and SVG, from elements and from templates: text is escaped, and nothing outside the file can be linked."""

from __future__ import annotations

import base64
import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_LINKS = ("href", "src", "srcset", "action", "formaction", "poster", "data", "xlink:href")
_INSIDE = re.compile(
    r"#[\w-]+|data:(image/jpeg|image/png|image/svg\+xml|text/csv|application/json);base64,[A-Za-z0-9+/=]*"
)
_VOID = ("br", "hr", "img", "input", "link", "meta", "wbr")
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def el(tag: str, *children: str | None, **attributes: str | int | float | bool | None) -> Markup:
    """An element; ``None`` children and ``None`` or ``False`` attributes are left out, text is escaped.

    Args:
        attributes: ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``; ``True`` gives a bare attribute.

    Raises:
        ValueError: An event handler, a style attribute, or a link that leaves the file: the report's own content
            policy would block it, so it is our bug.

    Example:
        >>> str(el("b", "1 < 2", class_="x"))
        '<b class="x">1 &lt; 2</b>'
    """
    head = f"<{tag}"
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        text = "" if value is True else value if isinstance(value, str) else f"{value:.6g}"
        if not _NAME.fullmatch(name) or name.lower().startswith("on") or name == "style":
            raise ValueError(f"the attribute {name!r} of {tag} is not allowed in a report")
        if name in _LINKS and not _INSIDE.fullmatch(text):
            raise ValueError(f"a report links nothing outside itself, but {tag} has {name}={text[:60]!r}")
        head += f' {name}="{escape(printable(text))}"' if text else f" {name}"
    if tag in _VOID:
        return Markup(f"{head}>")
    inner = "".join(
        child if isinstance(child, Markup) else escape(printable(child)) for child in children if child is not None
    )
    return Markup(f"{head}>{inner}</{tag}>")


def printable(text: str) -> str:
    """Text without control characters and surrogates, which HTML forbids, and marks that turn the line backwards."""
    return _UNFIT.sub("\ufffd", text)


def fill(template: str, **values: object) -> Markup:
    """A template of ours, by the name of its file, with values for its placeholders; texts among them are escaped."""
    return Markup(_environment().get_template(template).render(values))


def asset(name: str) -> str:
    """The text of a style sheet or script of ours."""
    return files("tavt_kit.reports").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    # Code may break after commas and slashes only: a schedule, a path.
    environment.filters["pieces"] = lambda text: re.split(r"(?<=[,/])", text)
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment
