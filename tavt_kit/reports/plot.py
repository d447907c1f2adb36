"""The report's chart on its own, for a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from tavt_kit.core.records import atomic_text
from tavt_kit.errors import RecordError
from tavt_kit.reports.front import chart_of
from tavt_kit.reports.markup import asset
from tavt_kit.reports.records import gather


@dataclass(frozen=True, slots=True, repr=False)
class Plot:
    """A chart that a notebook draws where it is the value of a cell.

    Args:
        title: What it shows.
        page: It as an HTML page of its own, which fetches nothing.
    """

    title: str
    page: str

    def save(self, path: str | Path) -> Path:
        """Write the page. Raises OutputError: it cannot be written."""
        atomic_text(Path(path), self.page)
        return Path(path)

    def _repr_html_(self) -> str:
        frame = '<iframe title="{}" srcdoc="{}" style="width: 100%; height: 620px; border: 0"></iframe>'
        return str(Markup(frame).format(self.title, self.page))

    def __repr__(self) -> str:
        return f"<Plot: {self.title}; `save` writes it as HTML>"


def plot(folder: str | Path) -> Plot:
    """Everything that was measured, accuracy against cost, as the report draws it.

    Raises:
        RecordError: The folder holds no fit and no search of which a point is known.
    """
    figure = chart_of(gather([Path(folder)]))
    if figure is None:
        raise RecordError(f"{folder} holds nothing that was searched or fitted, so there is nothing to draw")
    page = '<!DOCTYPE html><meta charset="utf-8"><title>{}</title><style>{}</style><main><figure>{}{}{}</figure></main>'
    caption = Markup("<figcaption>{}</figcaption>").format(figure.caption)
    style = Markup(asset("report.css"))  # our own
    return Plot(figure.name, str(Markup(page).format(figure.name, style, figure.legend or "", figure.image, caption)))
