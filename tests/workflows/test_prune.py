"""``prune`` as a Python function: what the verb does, without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.core.records import sha256_file
from tavt_kit.errors import OutputError, RecordError
from tavt_kit.reports.words import points_text
from tavt_kit.workflows.prune import prune
from tests.verbs.command import run


def test_the_verb_gives_what_the_function_gives(
    data: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = prune(model, tmp_path / "function", data, mlp=0.5, training_images=6)
    again = prune(model, tmp_path / "function", data, mlp=0.5, training_images=6)
    assert capfd.readouterr() == ("", "")
    assert (
        run("prune", model, "--data", data, "-o", tmp_path / "verb", "--mlp", 0.5, "--training-images", 6, "--json")
        == 0
    )
    said = json.loads(capfd.readouterr().out)
    assert said.pop("folder") == str(tmp_path / "verb")
    written = json.loads((tmp_path / "function" / "prune.json").read_text())
    assert written == said == json.loads(json.dumps(done.record)) == again.record
    assert sha256_file(tmp_path / "verb" / "model.safetensors") == sha256_file(done.folder / "model.safetensors")
    assert done.top1.split == "val" and done.difference.n == done.top1.n
    assert list(done.to_frame()["when"]) == ["before", "after"]
    change = points_text(done.difference.difference)
    assert repr(done) == f"<PruneResult {done.folder}: top-1 {done.top1}, {change} points>"
    words = ("prune", model, "--data", data, "-o", tmp_path / "said", "--mlp", 0.5, "--training-images", 6)
    assert run(*words) == 0 and f"paired: {change} points, 95 % " in capfd.readouterr().out


def test_what_cannot_be_names_parameters(data: Path, model: Path, tmp_path: Path, quiet: None) -> None:
    with pytest.raises(OutputError, match="choose another `out`"):
        prune(model, model, data, mlp=0.5)
    prune(model, tmp_path / "out", data, mlp=0.5, importance="magnitude")
    with pytest.raises(RecordError, match="another pictures; choose another `out`, or start again with `fresh=True`"):
        prune(model, tmp_path / "out", data, mlp=0.5, importance="magnitude", training_images=7)
