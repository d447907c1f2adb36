from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tavt_kit.reports.blocks import Figure, Missing, Section, Text
from tavt_kit.reports.charts import Curve, curve_figure, thinned
from tavt_kit.reports.records import gather
from tavt_kit.reports.training import learning_section
from tests.reports.records import write_run
from tests.reports.test_charts import once


def section(folder: Path) -> Section:
    found = learning_section(gather([folder]))
    assert isinstance(found, Section)
    return found


def test_the_curves_of_a_run_and_what_was_selected(tmp_path: Path) -> None:
    said, loss, metric = section(write_run(tmp_path).folder).blocks
    assert isinstance(said, Text) and isinstance(loss, Figure) and isinstance(metric, Figure)
    sentence = str(said.parts[0]).replace("\u00a0", " ")
    assert "300 steps; the loss fell from 1.34 to 0.412" in sentence  # the line that was cut off is not read
    assert "step 250, the best by macro F1 on val, mean over the ladder of schedules (71.8 %)" in sentence
    assert "waited for images 2.4 % of the time" in sentence
    drawn = once(loss)
    assert drawn.count('class="curve') == 4 and drawn.count('class="band"') == 1
    assert once(metric).count('class="ring"') == 1 and once(metric).count('class="seen"') == 12


def test_a_run_that_stopped_early_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    record = json.loads((run.folder / "run.json").read_text())
    record["asked"]["steps"] = 1000
    (run.folder / "run.json").write_text(json.dumps(record))
    assert "300 of 1000 steps; the loss fell" in str(section(run.folder).blocks[0])


def test_a_run_without_steps_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run.folder / "metrics.jsonl").unlink()
    assert isinstance(learning_section(gather([run.folder])), Missing)


@pytest.mark.parametrize(
    "line", ["", "[1]", "{}", '{"step": "x", "loss": []}', '{"step": 1, "val_top1": 0.5}', "\ufffd"]
)
def test_no_log_breaks_the_report(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path)
    (run.folder / "metrics.jsonl").write_text(line + "\n")
    learning_section(gather([run.folder]))
    (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n" + line + "\n")
    assert section(run.folder).blocks


def test_a_thinned_curve_keeps_means_and_extremes() -> None:
    points = [(float(step), float(step % 7)) for step in range(1, 1001)]
    curve = thinned("loss", points, 50, spread=True)
    assert len(curve.points) == 50 and curve.points[0] == (10.5, pytest.approx(sum(i % 7 for i in range(1, 21)) / 20))
    assert all((low, high) == (0.0, 6.0) for _, low, high in curve.spread)
    assert thinned("loss", points[:50], 50, spread=True).spread == ()


def test_points_are_drawn_where_their_numbers_say() -> None:
    curves = [Curve("top-1 on val", ((10.0, 50.0), (20.0, 70.0)), dots=True, ring=20.0)]
    figure = curve_figure(curves, 40.0, "%", "chart")
    text = once(figure)
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="3.5"', text)]
    assert len(dots) == 2 and dots[1][1] < dots[0][1]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[0][0] - 66.0, abs=0.2)
    assert "selected" in str(figure.legend) and "about step 20; top-1 on val 70.0" in text
