"""The door: what a verb raises or returns, as a sentence and an exit code; and the flags every verb shares."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Annotated

import pytest
import typer

from tavt_kit import cli
from tavt_kit.core.parsing import parse_duration
from tavt_kit.errors import ParameterError, TargetError
from tavt_kit.verbs import options
from tavt_kit.verbs.console import console_of

ROOT = Path(__file__).resolve().parents[1]
TABLE = dict(cli.VERBS)


def verb(
    model: options.Model,
    out: options.Out = Path("out"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    budgets: Annotated[list[str] | None, typer.Option("--budget")] = None,
    image_size: Annotated[int | None, typer.Option(min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    config: options.Config = None,
) -> int:
    """A verb for these tests."""
    print(model, out, seed, budgets, image_size, dry_run)
    if model == "bad":
        raise TargetError("a target is on this machine,\n got 'torch:tpu'; choose torch:cpu")
    if model == "m" * 5000:
        Path(model).is_file()
    if model == "bug":
        raise RuntimeError("oops")
    if model == "memory":
        raise MemoryError
    if model == "allocator":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    if model == "thread":
        raise RuntimeError("can't start new thread")
    if model == "interrupted":
        raise KeyboardInterrupt
    if model == "interrupted library":
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("expected a message argument") from None
    return 1 if model == "fails" else 0


def with_own_model(thing: str, model: Annotated[str, typer.Option()] = "") -> int:
    """Names its own --model."""
    print(thing, model)
    return 0


@pytest.fixture(autouse=True)
def only_these_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tests_cli_verbs")
    module.__dict__.update({"try": verb, "own": with_own_model})
    monkeypatch.setitem(sys.modules, "tests_cli_verbs", module)
    monkeypatch.setattr(cli, "VERBS", {name: f"tests_cli_verbs:{name}" for name in ("try", "own")})


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


@pytest.mark.parametrize("model", ["memory", "allocator", "thread"])
def test_no_memory_is_one_sentence(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", model) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fgvc-kit try: the memory that this process may take ran out; ")


@pytest.mark.parametrize("model", ["interrupted", "interrupted library"])
def test_an_interruption_says_how_to_go_on(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a library makes an error of its own of it, as protobuf does in the middle of an import."""
    assert run("try", model) == 130
    assert capsys.readouterr().err == "fgvc-kit try: interrupted; the same command goes on from what is finished\n"


def test_a_bug_keeps_its_plain_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run("try", "bug")
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)") and "RuntimeError: oops" in err and "│" not in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nothing",), "'nothing'"),
        (("ty", "x"), "did you mean try?"),
        (("try",), "MODEL"),
        (("try", "x", "--colour", "red"), "--colour"),
        (("try", "x", "--seed", "a"), "--seed"),
        (("try", "x", "--seed", "-1"), "--seed"),
        (("try", "x", "--image-size", "0"), "--image-size"),
        (("--colour",), "--colour"),
    ],
)
def test_wrong_usage_exits_2_and_names_it(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert named in said.err and not said.out


def test_an_option_of_an_earlier_version_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "VERBS", TABLE)
    options = [(verb, option) for verb, options in cli.gone().items() for option in options if verb != "verbs"]
    assert len(options) > 50
    for verb, option in options:
        assert run(verb, "thing", f"{option}=value") == run(verb, "thing", option) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert first == second and first.startswith(f"fgvc-kit {verb}: {option} is gone: ")
        command = typer.main.get_command(cli.app).get_command(None, verb)  # type: ignore[attr-defined]
        assert option not in {name for parameter in command.params for name in parameter.opts}


def test_a_verb_of_an_earlier_version_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--data", "elpv") == 2
    assert "fgvc-kit fit elpv" in capsys.readouterr().err


def test_a_name_that_no_disk_takes_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "m" * 5000) == 2
    assert "name too long" in capsys.readouterr().err


def test_a_number_that_nothing_could_hold_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "m", "--seed", "9" * 23) == run("try", "m", "--image-size", "1000000") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--seed is at most" in first and "--image-size is at most" in second


def test_a_verb_may_have_its_own_model_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("own", "thing", "--model", "m") == 0
    assert capsys.readouterr().out == "thing m\n"


def test_config_file_gives_defaults_and_flags_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text('model = "m"\nseed = 5\nout = "there"\nbudget = "flops=9G"\nimage_size = 64\ndry-run = true\n')
    assert run("try", "--config", str(file), "--seed", "6") == 0
    assert capsys.readouterr().out == "m there 6 ['flops=9G'] 64 True\n"
    file.write_text('budget = ["flops=9G", "top1=84%"]\n')
    assert run("try", "n", "--config", str(file)) == 0
    assert capsys.readouterr().out == "n out 0 ['flops=9G', 'top1=84%'] None False\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sed = 5", "sets sed (did you mean seed?), but try takes budget, dry-run, image-size, model, out, seed"),
        ("seed = ", "is not a TOML file"),
        (f"seed = {'[' * 100_000}", "nested too deep"),
        ("seed = [1, 2]", "seed to one value"),
        ("seed = true", "must set seed to a number or text, not to True"),
        ("[seed]\na = 1", "seed to one value"),
        ('config = "other.toml"', "sets config"),
        (None, "No such file"),
    ],
)
def test_a_bad_config_file_is_refused(
    text: str | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    if text is not None:
        file.write_text(text)
    assert run("try", "m", "--config", str(file)) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "c.toml" in err and named in err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0 and run("--help") == 0
    out = capsys.readouterr().out
    assert "fgvc-kit 0" in out and "A verb for these tests" in out and "Exit codes: 0 done" in out


def test_help_is_short_and_begins_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "VERBS", TABLE)
    for verb in ("train", "search", "export"):
        assert run(verb, "--help") == run(verb, "--help", "--all") == 0
        brief, whole = capsys.readouterr().out.split("Usage: ")[1:]
        assert len(brief.splitlines()) < 90 and f"Example: fgvc-kit {verb} " in brief
        flags = {setting.flags[0] for setting in cli.settings_of(verb).values()}
        assert all(flag in brief and flag in whole for flag in flags)
        assert len(whole) > len(brief)
    assert run("serach", "runs/birds") == 2 and "did you mean search?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("15 min", 900), ("1h", 3600), ("1.5h", 5400), ("1h30m", 5400), ("20", 20)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_no_duration_stays_none() -> None:
    assert parse_duration(None) is None


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "0h", "1 day", "1m1h", "1h30", "inf"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ParameterError, match="90s, 15m or 1h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("typed", "expected"), [("exp", "export explain"), ("export --max", "--max-drop"), ("fit --o", "--out")]
)
def test_a_shell_completes_verbs_options_and_settings(
    typed: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"COMP_WORDS": f"fgvc-kit {typed}", "COMP_CWORD": str(1 + typed.count(" "))}
    for name, value in {"_FGVC_KIT_COMPLETE": "complete_bash", **words}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "VERBS", TABLE)
    assert run() == 0
    assert set(expected.split()) <= set(capsys.readouterr().out.split())


def test_the_table_names_every_verb_there_is() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tavt_kit" / "verbs").glob("*.py")]
    assert sorted(TABLE) == sorted(re.findall(r"^def (\w+)_verb\(", "\n".join(texts), re.MULTILINE))
    for name, home in TABLE.items():
        module, _, function = home.partition(":")
        assert function == f"{name}_verb"
        assert getattr(importlib.import_module(module), function).__doc__, f"{name} has no docstring, which is its help"


SCRIPT = """
import sys, time, types
from tavt_kit import cli
def slow():
    print("started", flush=True)
    time.sleep(60)
def much():
    for _ in range(100_000):
        print("line")
    return 1
module = types.ModuleType("verbs_here")
module.slow, module.much = slow, much
sys.modules["verbs_here"] = module
cli.VERBS.clear()
cli.VERBS.update(slow="verbs_here:slow", much="verbs_here:much")
cli.main()
"""


def start(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes as POSIX has them")
def test_ctrl_c_exits_130_with_one_sentence() -> None:
    process = start("slow")
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "fgvc-kit slow: interrupted; the same command goes on from what is finished\n"


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes as POSIX has them")
def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start("much")
    assert process.stdout is not None and process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr is not None and process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=30) == 141


def test_parameters_in_a_sentence_are_written_as_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", TABLE)
    flags = cli.flags_known(typer.main.get_command(cli.app).get_command(None, "search"))  # type: ignore[attr-defined]
    said = cli.with_flags("`max_time` is a time; `fix`='precision', `baselines=False`, begin with `fresh=True`", flags)
    assert said == "--max-time is a time; --fix='precision', --no-baselines, begin with --fresh"
    assert cli.with_flags("`schedule=dense` of `no_such_thing`, and `models get`", flags) == (
        "--schedule dense of no_such_thing, and `models get`"
    )
    assert cli.with_flags("`heads` are of convert", flags) == "--heads are of convert"  # another verb's


class Full:
    """A stream on a full disk."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(("name", "code"), [("stdout", 141), ("stderr", 0)])
@pytest.mark.parametrize("stream", [Full(), None])
def test_a_stream_that_takes_nothing_is_no_bug(
    stream: Full | None, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, name, stream)
    assert run("try", "good") == (code if stream else 0)
    assert run("try", "bad") == 2


def test_names_steer_no_terminal_and_leave_no_character_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "\x1b[2J\x1b]0;x\x07\u202e\udcff") == 0
    assert r"\x1b[2J\x1b]0;x\x07\u202e" in capsys.readouterr().out
    assert run("try", "\x1b", "--colour") == 2
    assert "\x1b" not in capsys.readouterr().err


def test_tables_spell_out_what_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("class")
    table.add_row("a\x1b[2Jb")
    console_of(80).print(table)
    assert r"a\x1b[2Jb" in capsys.readouterr().out


def test_an_empty_out_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "m", "-o", "") == run("try", "m", "--out=") == 2
    assert all("--out" in line for line in capsys.readouterr().err.splitlines())
