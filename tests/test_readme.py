"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tavt_kit import cli

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["197x12", "torch.Size([2, 16])"]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [line.split("#")[0].split()[1:] for line in lines if line.startswith("fgvc-kit ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_names_a_verb_and_flags_that_are(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    verb, flags = words[0], {word for word in words[1:] if word.startswith("-")}
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert flags <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))
