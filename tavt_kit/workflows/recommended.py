"""The folder that a fit ends with: the file to ship, a script that runs it, and its model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tavt_kit.core.artifact_card import files_of, read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import atomic_text
from tavt_kit.data.look import DataFacts
from tavt_kit.exporters import standalone
from tavt_kit.workflows.fit_rows import FitTable


def write_recommended(folder: Path, table: FitTable, facts: DataFacts, record: Mapping[str, Any]) -> None:
    """Write the recommended row's file as ``model.xml`` or ``model.onnx``, ``predict.py`` and ``README.md``.

    What the folder held before is replaced whole, so that no card stands beside another's file. The record is the body
    of ``fit.json``.
    """
    assert table.recommended is not None
    row = table.rows[table.recommended]
    made, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left in (made, old):
        shutil.rmtree(left, ignore_errors=True)
    made.mkdir()
    for file in files_of(row.file):
        # The .xml of OpenVINO finds its .bin by its own name; an .onnx names its weight file inside.
        renamed = f"model{file.suffix}" if file.suffix in (".xml", ".bin", ".onnx") else file.name
        shutil.copyfile(file, made / renamed)
    shutil.copyfile(str(standalone.__file__), made / "predict.py")
    name = f"model{row.file.suffix}"
    atomic_text(made / "README.md", _card(name, read_metadata(row.file).model, table, facts, record))
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _card(name: str, model: Any, table: FitTable, facts: DataFacts, record: Mapping[str, Any]) -> str:
    """The model card in Markdown."""
    assert table.recommended is not None
    row, host = table.rows[table.recommended], record["host"]
    accuracies = [one for split in ("val", "test") if (one := row.accuracy(split)) is not None]
    licences = [f"* {licence.name}: {licence.licence} ({licence.source})" for licence in model.licences]
    budgets, where = " and ".join(table.budget.texts()), TargetDevice.from_record(record["target"])
    times = (
        f"* latency {row.latency.median:.2f} ms median, {row.latency.p90:.2f} ms p90 on {where} "
        f"({host.get('cpu') or 'unknown processor'}), batch {table.batch}; budget {budgets}: {table.verdict(row)}"
    )
    parts = (
        f"# {facts.name}: {model.name}",
        f"{row.name}, schedule {row.configuration}, {row.macs / 1e9:.2f} GMACs an image.",
        "\n".join([*(f"* top-1 {accuracy}" for accuracy in accuracies), times]),
        f"    python predict.py {name} photo.jpg",
        "## Data",
        "\n".join(facts.sentences),
        f"Classes: {', '.join(model.classes)}.",
        "## Licences of weights and images",
        "\n".join(licences) or "* not known",
        f"Made by `{record['command']}`.\n",
    )
    return "\n\n".join(parts)
