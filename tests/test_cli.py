"""The door: what a verb raises or returns, as a sentence and an exit code."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tavt_kit import cli
from tavt_kit.errors import TargetError
from tavt_kit.verbs import options
from tavt_kit.verbs.options import Bad, parse_duration


def verb(
    model: options.Model, out: options.Out = Path("out"), seed: options.Seed = 0, config: options.Config = None
) -> int:
    """A verb for these tests."""
    print(model, out, seed)
    if model == "bad":
        raise TargetError("a target is on this machine,\n got 'torch:tpu'; choose torch:cpu")
    if model == "bug":
        raise RuntimeError("oops")
    if model == "interrupted":
        raise KeyboardInterrupt
    return 1 if model == "fails" else 0


@pytest.fixture(autouse=True)
def only_this_verb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("tests_cli_verb")
    module.verb = verb  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_cli_verb", module)
    monkeypatch.setattr(cli, "VERBS", {"try": "tests_cli_verb:verb"})
    yield


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("model", "code"), [("good", 0), ("fails", 1), ("bad", 2), ("interrupted", 130), ("bug", 70)])
def test_exit_codes(model: str, code: int) -> None:
    assert run("try", model) == code


def test_a_known_error_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run("try", "bad")
    assert capsys.readouterr().err == "fgvc-kit try: a target is on this machine, got 'torch:tpu'; choose torch:cpu\n"


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run("try", "bug")
    assert "RuntimeError: oops" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("try",), ("try", "x", "--colour", "red"), ("try", "x", "--seed", "a")]
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 2


@pytest.mark.parametrize("alias", [["--model", "m"], ["--model=m"]])
def test_model_is_an_alias_for_the_first_argument(alias: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "--seed", "3", *alias) == 0
    assert capsys.readouterr().out == "m out 3\n"


def test_config_file_gives_defaults_and_flags_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text('seed = 5\nout = "there"\n')
    assert run("try", "m", "--config", str(file), "--seed", "6") == 0
    assert capsys.readouterr().out == "m there 6\n"


@pytest.mark.parametrize("text", ["sed = 5", "seed = ", None])
def test_a_bad_config_file_is_refused(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    if text is not None:
        file.write_text(text)
    assert run("try", "m", "--config", str(file)) == 2
    assert "c.toml" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0 and run("--help") == 0
    out = capsys.readouterr().out
    assert "fgvc-kit 0" in out and "A verb for these tests" in out


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("1.5h", 5400), ("20", 20)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "1 day"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(Bad):
        parse_duration(text)
