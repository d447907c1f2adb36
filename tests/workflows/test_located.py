"""Results can be given wherever a path can."""

from __future__ import annotations

import os
from pathlib import Path

from tavt_kit.workflows.evaluate import evaluate
from tavt_kit.workflows.export import export
from tavt_kit.workflows.predict import predict


def test_what_a_workflow_gave_is_what_the_next_one_takes(data: Path, model: Path, tmp_path: Path) -> None:
    files = export(model, tmp_path / "shipped", schedule="14,11,8,8", format="onnx", data=data, dense=False)
    assert os.fspath(files) == str(tmp_path / "shipped") and Path(files[0]) == files[0].path
    by_file, by_path = (evaluate(thing, data, split="test") for thing in (files[0], files[0].path))
    assert by_file.record == by_path.record
    photo = next(data.rglob("*.png"))
    assert predict(files[0], photo).record == predict(str(files[0].path), photo).record
