"""HTML and SVG as values: text is escaped when it is written, and nothing outside the file can be linked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from unicodedata import category

__all__ = ["Element", "Node", "Verbatim", "el", "render"]

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_LINKS = ("href", "src", "srcset", "action", "formaction", "poster", "data", "xlink:href")
_INSIDE = re.compile(
    r"#[\w-]+|data:(image/jpeg|image/png|image/svg\+xml|text/csv|application/json);base64,[A-Za-z0-9+/=]*"
)
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})
_OWN_LINE = frozenset(
    "html head body main header footer section article figure figcaption table thead tbody tr ul ol li dl dt dd p "
    "h1 h2 h3 div svg style script meta title details summary".split()
)


@dataclass(frozen=True, slots=True)
class Element:
    """A tag with attributes and children; made by ``el``."""

    tag: str
    attributes: tuple[tuple[str, str], ...] = ()
    children: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text of a ``style`` or ``script`` of our own, which HTML forbids to escape.

    Raises:
        ValueError: It holds ``</`` or ``<!--``, which could end the element early.
    """

    text: str

    def __post_init__(self) -> None:
        if "</" in self.text or "<!--" in self.text:
            raise ValueError("a style or script must hold neither '</' nor '<!--'")


Node = Element | Verbatim | str


def el(tag: str, *children: Node | None, **attributes: str | int | float | bool | None) -> Element:
    """An element; ``None`` children and ``None`` or ``False`` attributes are left out.

    Args:
        tag: Name of the tag.
        children: Elements, and text that will be escaped.
        attributes: ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``; ``True`` gives a bare attribute.

    Raises:
        ValueError: An event handler, a style attribute, or a link that leaves the file: the report's own content
            policy would block it, so it is our bug.

    Example:
        >>> render(el("b", "1 < 2", class_="x"))
        '<b class="x">1 &lt; 2</b>'
    """
    pairs = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        text = "" if value is True else value if isinstance(value, str) else f"{value:.6g}"
        _check_attribute(tag, name, text)
        pairs.append((name, text))
    if not _NAME.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag name")
    return Element(tag, tuple(pairs), tuple(child for child in children if child is not None))


def _check_attribute(tag: str, name: str, text: str) -> None:
    if not _NAME.fullmatch(name) or name.lower().startswith("on") or name == "style":
        raise ValueError(f"the attribute {name!r} of {tag} is not allowed in a report")
    if name in _LINKS and not _INSIDE.fullmatch(text):
        raise ValueError(f"a report links nothing outside itself, but {tag} has {name}={text[:60]!r}")


def render(node: Node) -> str:
    """The node as HTML text.

    Example:
        >>> render(el("p", '<script>alert(1)</script>', title='"><img>'))
        '<p title="&quot;&gt;&lt;img&gt;">&lt;script&gt;alert(1)&lt;/script&gt;</p>\\n'
    """
    parts: list[str] = []
    _render(node, parts)
    return "".join(parts)


def _render(node: Node, parts: list[str]) -> None:
    if isinstance(node, str):
        parts.append(escape(_printable(node), quote=False))
    elif isinstance(node, Verbatim):
        parts.append(node.text)
    else:
        parts.append(f"<{node.tag}")
        parts += [
            f" {name}" if not text else f' {name}="{escape(_printable(text), quote=True)}"'
            for name, text in node.attributes
        ]
        parts.append(">")
        if node.tag not in _VOID:
            for child in node.children:
                _render(child, parts)
            parts.append(f"</{node.tag}>")
        if node.tag in _OWN_LINE:
            parts.append("\n")


def _printable(text: str) -> str:
    """Without control characters and surrogates, and without the marks that reverse the reading direction.

    HTML forbids the first; a class name with U+202E would show its whole line backwards.
    """
    return "".join("\ufffd" if _is_unfit(char) else char for char in text)


def _is_unfit(char: str) -> bool:
    return (category(char) in ("Cc", "Cs") and char not in "\n\t") or char in _TURNING
