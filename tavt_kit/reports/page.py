"""From records to a report: which sections there are, its three files, and its chart on its own for a notebook.

``report.json`` is what the report says, for programs. ``verdict``, ``lead``, ``sentence``, ``notes`` and ``command`` as
the page has them; ``budgets``; ``target``, ``host``, ``metric`` and ``split`` of the search; ``chosen`` (a row, or
null); ``rows``: every point, with the columns of ``report.csv``; ``records``: the files read, each with its schema and
SHA-256. What is not known is null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from tavt_kit.core.latency_table import part_words
from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import csv_text
from tavt_kit.core.records import atomic_text, label_record, sha256_file
from tavt_kit.errors import RecordError, TavtError
from tavt_kit.reports import blocks, correctness, front, images, latency, provenance, training
from tavt_kit.reports.answer import answer
from tavt_kit.reports.baselines import fit_rows, fit_section
from tavt_kit.reports.candidates import CandidateView, FrontView
from tavt_kit.reports.markup import asset
from tavt_kit.reports.records import Records, gather, mapping, sequence, text

HTML_FILE, CSV_FILE, JSON_FILE = "report.html", "report.csv", "report.json"

_GROUPS: dict[str, tuple[Callable[[Records], blocks.Section | blocks.Missing | None], ...]] = {
    "Decide": (fit_section, front.front_section),
    "Understand": (
        correctness.classes_section, correctness.evaluated_section, images.kept_section, images.explained_section,
        latency.layers_section, training.ladder_section, training.learning_section,
    ),
    "Trust": (
        correctness.checks_section, latency.benches_section, front.convergence_section, provenance.provenance_section,
    ),
    "Reproduce": (provenance.reproduction_section,),
}  # fmt: skip
"""What stands below the answer, in the order a reader asks."""


def build_report(records: Records) -> blocks.Report:
    """What the records say: the answer, one chart, and the rest under four headings."""
    name = text(provenance.card_of(records), "name")
    data = text(records.first("fit"), "data", "name") or text(records.first("split"), "name")
    folder = Path(records.folders[0]).resolve().name if records.folders else "A run"
    title = " on ".join(part for part in (name, data) if part) or folder
    groups = {heading: [section(records) for section in sections] for heading, sections in _GROUPS.items()}
    # All that is not there in one place, so that a short report stays short.
    missing = [section for sections in groups.values() for section in sections if isinstance(section, blocks.Missing)]
    if missing and not records.all("fit"):
        lead = blocks.Text.of("Each of these is made by the command beside it.")
        facts = blocks.Facts(tuple((section.what, blocks.Code(section.command)) for section in missing))
        groups["Reproduce"].append(blocks.Section("missing", "Not recorded", (lead, facts), f"{len(missing)} kinds"))
    kept = (
        (heading, tuple(section for section in group if isinstance(section, blocks.Section)))
        for heading, group in groups.items()
    )
    return blocks.Report(
        title,
        provenance.summary(records),
        answer(records),
        front.chart_of(records),
        tuple((heading, sections) for heading, sections in kept if sections),
        f"Made by fgvc-kit report from {', '.join(records.folders) or 'records'}.",
    )


class Written(NamedTuple):
    """The files of a report."""

    html: Path
    csv: Path
    json: Path


def write_report(runs: Sequence[Path], out: Path | None = None) -> Written:
    """Write the report's three files; the arguments are those of the workflow ``report``, and so is what it raises."""
    records = gather(runs)
    if len(fronts := records.all("front")) > 1:
        raise RecordError(
            f"a report is of one search, but {', '.join(records.folders)} holds {len(fronts)} "
            f"({', '.join(str(search.path.parent) for search in fronts)}); give the folder of one"
        )
    report = build_report(records)
    body = report_body(records, report.answer, report.title)
    table = csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in body["rows"]))
    record = json.dumps(label_record("report", body), indent=1, ensure_ascii=False)
    if out is None:
        out = Path(runs[0]) if Path(runs[0]).is_dir() else Path(runs[0]).parent
    with held_folder(out, "report") as folder:
        written = Written(*(folder / name for name in (HTML_FILE, CSV_FILE, JSON_FILE)))
        downloads = (
            {"name": CSV_FILE, "kind": "text/csv", "content": table},
            {"name": JSON_FILE, "kind": "application/json", "content": record},
        )
        atomic_text(written.html, blocks.html_page(report, downloads))
        atomic_text(written.csv, table)
        atomic_text(written.json, record + "\n")
        return written


def report_body(records: Records, said: blocks.Answer, run: str) -> dict[str, Any]:
    """The object of one run, with the answer as the page says it."""
    rows, made = rows_of(records, run), records.first("fit") or records.first("front")
    chosen = (row for row in rows if row["chosen"] and row["table"] == ("final" if records.all("fit") else "front"))
    files = sorted({(file.path, file.body["schema"]) for of_kind in records.by_kind.values() for file in of_kind})
    return {
        "run": run,
        "verdict": said.verdict or None,
        "lead": said.lead.replace("\u00a0", " "),
        "sentence": _plain(said.sentence),
        "notes": [_plain(note) for note in said.more],
        "command": said.command[1] if said.command else None,
        "budgets": list(sequence(made, "budgets")),
        "target": dict(mapping(made, "target")) or None,
        "host": dict(mapping(made, "host")) or None,
        "metric": text(made, "metric") or ("top1" if records.all("fit") else None),
        "split": text(made, "split") or ("val" if records.all("fit") else None),
        "chosen": next(chosen, None),
        "rows": rows,
        "records": [
            {"file": str(path), "schema": schema, "sha256": sha256_file(path)}
            for path, schema in files
            if path.is_file()
        ],
    }  # fmt: skip


def _plain(said: blocks.Text) -> str:
    parts = (part.text if isinstance(part, blocks.Code) else part for part in said.parts)
    return "".join(parts).replace("\u00a0", " ")


COLUMNS = (
    "run", "table", "name", "schedule", "chosen", "macs", "split", "metric", "value", "n", "low", "high",
    "points_against_dense", "predicted_ms", "median_ms", "p10_ms", "p90_ms", "p90_low_ms", "p90_high_ms", "p99_ms",
    "steady", "speed", "verdict",
)  # fmt: skip
"""Of each row. ``table`` is ``front``, ``baseline``, ``final`` or ``layers``, where ``name`` is a part of the model;
accuracies are fractions, what is not known empty."""


def rows_of(records: Records, run: str) -> list[dict[str, Any]]:
    """Everything with figures: the front, its baselines, the closing table, the parts of the dense and chosen model."""
    view = FrontView(records.first("front"))
    rows = []
    for model in (*view.candidates, *view.baselines, *view.models):
        which = "front" if model.key.startswith("c") else "baseline"
        row = _row(run, which, model.name or model.origin, view.metric, model)
        difference = model.difference.value if model.difference else None
        row |= {"schedule": model.schedule, "chosen": model is view.pick, "split": view.split}
        row |= {"points_against_dense": None if difference is None else round(100 * difference, 6)}
        rows.append(row | {"speed": view.speedup(model)})
    for model in fit_rows(records.first("fit")):
        row = _row(run, "final", model.name or "?", "top1", model)
        row |= {"chosen": model.kind == "chosen", "split": model.split}
        rows.append(row | {"speed": model.ratio.value if model.ratio else None})
    try:
        table = latency.latency_table(records)
    except TavtError:  # the page says so
        table = None
    empty: dict[str, Any] = dict.fromkeys(COLUMNS)
    for times in () if table is None else latency.layer_times(records, table):
        row = empty | {"run": run, "table": "layers", "schedule": times.schedule, "chosen": times.name == "chosen"}
        rows += [row | {"name": part_words(name), "predicted_ms": ms} for name, ms in times.parts.items()]
    return rows


def _row(run: str, table: str, name: str, metric: str, view: CandidateView) -> dict[str, Any]:
    time, accuracy = view.time, view.accuracy
    low, high = time.p90_bounds
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"run": run, "table": table, "name": name, "metric": metric}
    row |= {"macs": None if view.macs is None else int(view.macs), "verdict": view.verdict or None}
    row |= {"predicted_ms": time.predicted, "p90_low_ms": low, "p90_high_ms": high, "steady": time.steady}
    row |= {f"{name}_ms": getattr(time, name) for name in ("median", "p10", "p90", "p99")}
    return row if accuracy is None else row | {key: getattr(accuracy, key) for key in ("value", "n", "low", "high")}


@dataclass(frozen=True, slots=True, repr=False)
class Plot:
    """A chart that a notebook draws where it is the value of a cell: an HTML page of its own, which fetches nothing."""

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
    """Everything that was measured, accuracy against cost, as the report draws it; RecordError where nothing was."""
    figure = front.chart_of(gather([Path(folder)]))
    if figure is None:
        raise RecordError(f"{folder} holds nothing that was searched or fitted, so there is nothing to draw")
    page = '<!DOCTYPE html><meta charset="utf-8"><title>{}</title><style>{}</style><main><figure>{}{}{}</figure></main>'
    caption = Markup("<figcaption>{}</figcaption>").format(figure.caption)
    style = Markup(asset("report.css"))  # our own
    return Plot(figure.name, str(Markup(page).format(figure.name, style, figure.legend or "", figure.image, caption)))
