"""Every option of every verb that takes a number refuses what is none, in one sentence, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.verbs.command import run

OPTIONS = json.loads((Path(__file__).parents[1] / "golden" / "options.json").read_text())
BAD = {
    "<int>": ("one", "", "1.5", "1e3", "0x10", "nan"),
    "<float>": ("one", "", "1,5", "0x10"),
}
"""What is no number, by how an option is shown."""
CASES = [
    (verb, flag, text)
    for verb, known in OPTIONS.items()
    if verb and "," not in verb
    for flag, facts in known.items()
    if flag.startswith("--")
    for kind, bad in BAD.items()
    if facts["shown"].endswith(kind)
    for text in bad
]


@pytest.mark.parametrize(("verb", "flag", "text"), CASES)
def test_what_is_no_number_is_refused(
    verb: str,
    flag: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(verb, flag, text) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and flag in said
    assert list(tmp_path.iterdir()) == []
