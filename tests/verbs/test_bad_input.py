"""The catalogue of bad input: each case exits with its code, says in one sentence what was given, and writes nothing.

Cases are called as a user does, through ``main()`` in this process; some of each kind once more as real processes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tavt_kit import cli
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.records import write_record
from tavt_kit.data import load_images
from tavt_kit.verbs.settings import Setting, settings_of
from tests.parameters import few
from tests.verbs.command import run
from tests.verbs.tiny import write_images, write_run

ROOT = Path(__file__).parents[2]
OPTIONS = json.loads((ROOT / "tests" / "golden" / "options.json").read_text())
HUGE = "9" * 30


@dataclass(frozen=True)
class Case:
    """A command whose words may name ``{run}``, ``{data}`` and others of ``place``, and a text that it is told."""

    group: str
    words: tuple[str, ...]
    says: str
    spoil: tuple[str, str, str] | None = None
    """A folder of ``place`` that is copied to ``{bad}``, the file of it that is spoilt, and how."""

    @property
    def name(self) -> str:
        spoilt = () if self.spoil is None else self.spoil[1:]
        words = (*self.words, *spoilt)
        return f"{self.group}: {' '.join(word if len(word) < 40 else word[:20] + '~' for word in words)}"


def cases(group: str, *rows: str | tuple[str, str]) -> Iterator[Case]:
    """Of lines ``command | text of the sentence``; an empty text is the last word of the command."""
    for row in rows:
        command, _, says = (row if isinstance(row, str) else " | ".join(row)).partition(" | ")
        words = tuple(word.replace("%20", " ").replace("%0", "") for word in command.split(" "))
        yield Case(group, words, says or words[-1])


RUNNABLE = {
    "fit": ("fit", "{data}", "-o", "out"),
    "train": ("train", "{run}", "-o", "out", "--data", "{data}"),
    "distill": ("distill", "{run}", "-o", "out", "--data", "{data}"),
    "prune": ("prune", "{run}", "-o", "out", "--data", "{data}", "--mlp", "0.5"),
    "search": ("search", "{run}", "-o", "out", "--data", "{data}"),
    "export": ("export", "{run}", "-o", "out", "--data", "{data}"),
    "check": ("check", "{onnx}", "-o", "out", "--data", "{data}"),
    "bench": ("bench", "{run}", "-o", "out", "--target", "torch:cpu"),
    "profile": ("profile", "{run}", "-o", "out", "--target", "torch:cpu"),
    "report": ("report", "{search}", "-o", "out"),
    "eval": ("eval", "{run}", "--data", "{data}", "-o", "out"),
    "predict": ("predict", "{run}", "{image}"),
    "explain": ("explain", "{run}", "{image}", "-o", "out"),
}
"""What each verb would do if it were not for one more word."""


def with_setting(verb: str, flag: str, value: str, says: str = "") -> Case:
    return Case(f"{verb} {flag}", (*RUNNABLE[verb], f"{flag}={value}"), says or value)


def numbers() -> Iterator[Case]:
    """Every option that takes a number, of every verb, with what is none, too large or too small."""
    bad = {"<int>": ("one", "", "1.5", "1e3", "0x10", "nan"), "<float>": ("one", "", "1,5", "0x10")}
    for verb, known in OPTIONS.items():
        for flag, facts in known.items():
            for kind, texts in bad.items():
                if verb and "," not in verb and flag.startswith("--") and facts["shown"].endswith(kind):
                    yield from (Case(f"{verb} {flag}", (verb, "x", f"{flag}={text}"), flag) for text in texts)
    for verb in RUNNABLE:
        for setting in settings_of(verb).values():
            yield from _of_setting(verb, setting)


def _of_setting(verb: str, setting: Setting) -> Iterator[Case]:
    words, flag = setting.words, setting.flags[0]
    if setting.is_switch:
        yield Case(f"{verb} {flag}", (*RUNNABLE[verb], "--set", f"{setting.name}=maybe"), "maybe")
    elif words & {"int", "float"} and "str" not in words:
        yield with_setting(verb, flag, "one")
        if "int" in words and "float" not in words and not words & {"tuple", "Sequence"}:
            yield with_setting(verb, flag, HUGE, "at most")


def grammar() -> Iterator[Case]:
    """Every verb with an option, a setting or a file of settings that there is not, and without what it acts on."""
    for verb in cli.VERBS:
        yield Case("unknown option", (verb, "x", "--colourful", "red"), "--colourful")
        if verb not in ("models", "datasets", "doctor", "bench", "check"):
            yield Case("no argument", (verb,), "missing argument")
        if any(flag == "--json" for flag in OPTIONS[verb]):
            yield Case("a switch with a value", (verb, "x", "--json=yes"), "--json")
    for verb, words in RUNNABLE.items():
        yield Case("a setting without value", (*words, "--set", "seed"), "'seed'")
        yield Case("a setting of no verb", (*words, "--set", "colour=red"), "'colour'")
        yield Case("no file of settings", (*words, "--config", "{data}/none.toml"), "none.toml")
        yield Case("no TOML", (*words, "--config", "{csv}"), "is not a TOML file")
        yield Case("settings of no verb", (*words, "--config", "{toml}"), "sets colour")
        if words[-1] != "{image}" or verb == "explain":
            yield Case("no name for what is written", (*words, "--out="), "--out")
    yield from cases("no verb", "serch | search", "demo | gone", "frobnicate", "--colourful", "-x")


TARGETS = (
    "abacus:cpu abacus",
    "torch",
    "torch:abacus abacus",
    "openvino:cpu:threads=0 threads",
    "openvino:cpu:threads=many many",
    "openvino:cpu:batch=0 batch",
    "openvino:cpu:precision=f31 f31",
    "openvino:cpu:colour=red colour",
    "onnxruntime:gpu.7 gpu.7",
    "torch:cuda:7",
    ":: ''",
    "openvino:",
)
BUDGETS = (
    "flops=1",
    "flops=-3G -3e+09",
    "latency=0ms latency",
    "latency=ms",
    "latency=8",
    "drop=x",
    "top1=200% 200%",
    "recall[=1",
    "recall[moon]=50% recall[moon]",
    "=3",
    "soon",
    "latency=8ms=9ms",
    "throughput=1parsec",
)
SCHEDULES = (
    "9,12,12,12 keeps%2012",
    "9,9 9x2",
    "a,b",
    "0,0,0,0 keeps%200",
    "17x999999999",
    "18,17,17,17 18",
    "taper:2 2.0",
    "taper:",
    "curve:9",
    "merge",
    "keep:200%",
    "dense,dense",
)
TIMES = ("soon", "0", "-1s", "1day", "1m1h", "inf", "nan", "1e400 inf")
WORDS = {
    "train": "--recipe --score --pool --reduction --loss --class-weights --compat --optimiser --decay "
    "--interpolation --crop --augment --erasing-fill --precision --metric --device",
    "distill": "--recipe --sampling --kl --taught --optimiser --decay --schedules --teacher --schedule",
    "search": "--algorithm --objective --score --pool --reduction --precision --fix "
    "--profile --front --baseline --schedule",
    "export": "--format --precision --quantizer --smooth-quant --preprocessing --input-order --bundle --split",
    "check": "--against --split --predictions",
    "bench": "--precision --reductions --image-folder --budget",
    "profile": "--precision --score --pool --reduction",
    "prune": "--importance",
    "eval": "--split",
}
"""Options that take one of a few words, or a file."""


def values() -> Iterator[Case]:
    """Texts that are no target, budget, schedule, time or known word: all of them once, and one by every verb."""
    tables = (
        ("--target", TARGETS, "search", "bench export check eval predict profile fit"),
        ("--budget", BUDGETS, "search", "fit bench"),
        ("--schedule", SCHEDULES, "export", "bench eval predict explain search distill"),
        ("--max-time", TIMES, "search", "profile fit bench"),
    )
    for flag, texts, verb, others in tables:
        for row in texts:
            text, _, says = row.partition(" ")
            yield with_setting(verb, flag, text, says.replace("%20", " "))
            if text in ("abacus:cpu", "soon", "a,b", "0", "inf"):
                yield from (with_setting(other, flag, text, says) for other in others.split())
    for verb, flags in WORDS.items():
        yield from (with_setting(verb, flag, "papyrus") for flag in flags.split())


DATA = ("nowhere", "{image}", "{empty}", "{flat}", "{one}", "cub:", "cub:none", "nosuch:{data}", "{csv}", "{badcsv}")
"""No data: not there, an image, a folder without classes or with one, packages without files, lists without images."""


def inputs() -> Iterator[Case]:
    """Models, data, images and files that are none."""
    for verb in ("train", "distill", "prune", "search", "export", "eval", "check"):
        words = RUNNABLE[verb]
        given = words[: words.index("--data")] if "--data" in words else words
        for data in DATA:
            tail = ("--mlp", "0.5") if verb == "prune" else ("--weights", "random") if verb == "train" else ()
            yield Case(f"{verb} data", (*given, *tail, "--data", data), data.removeprefix("cub:") or data)
    for verb, words in RUNNABLE.items():
        rest = words[2:]
        for model in ("no_such_model", "{empty}", "{image}", "m" * 5000) if verb != "fit" else DATA:
            says = model if len(model) < 60 else "too long"
            yield Case(f"{verb} model", (verb, model, *rest), says.removeprefix("cub:"))
    yield from cases(
        "images",
        "predict {run} none.png",
        "predict {run} {csv}",
        "predict {run} {cut}",
        "predict {onnx} {cut}",
        "predict {run} {fifo}",
        "explain {run} none.png",
        "explain {run} {cut}",
        "predict {run} {image} --top 0 | --top",
        "predict {run} {empty}",
        "check {run} --against {run}",
    )
    yield from cases(
        "files",
        "convert none.pth",
        "convert {image} -o out | {image}",
        "convert {csv} -o out | {csv}",
        "convert {run}/model.safetensors -o out --family papyrus",
        "compare {run} {run} | {run}",
        "compare {eval} {run} | {run}",
        "compare {eval} none",
        "compare {eval} {eval} --threshold much",
        "compare {eval} {eval} --drop much",
        "show {run}",
        "show none",
        "show {search} --pick moon",
        "report {data} -o out | {data}",
        "datasets moon",
        "datasets cub cars | cub cars",
        "models moon",
        "models moon stars | stars",
        "check {image} --against {run} --data {data} | 0.png",
        "export {search} -o out --data {data} --pick moon",
        "fit {data} -o out --budget latency=0% | latency",
        "fit {data} -o out --model no_such_model",
        "train resnet50 --weights random --image-size 64 --data {data} -o out | resnet50",
        "train {run} --data {data} -o out --config {true} | steps",
        "train {run} --data {data} -o out --epochs 1 --steps 3 | --epochs",
        "train {run} --data {data} -o out --auto-augment rand-mX | mX",
        "train {run} --data {data} -o out --lr-scale x",
        "train {run} --data {data} -o out --loss-weights mask=heavy",
        "average {run} -o out",
        "average {run} nowhere -o out --data {data} | nowhere",
        "prune {run} --data {data} -o out --mlp 0 | 0",
        "prune {run} --data {data} -o out --mlp 1.5",
        "prune {run} --data {data} -o out --heads 9",
        "prune {run} --data {data} -o out --depth 0 | 0",
        "search {run} --data {data} -o out --precision foo",
        "search {run} --data {data} -o out --budget flops=1K | flops=1K",
        "search {run} --data {data} -o out --budget latency=1ms | latency",
        "search {run} --data {data} -o out --fresh --population 0 | --population",
    )


SPOILT = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "binary": lambda text: "\x00\x01" + text,
    "a list": lambda text: f"[{text}]",
    "a number": lambda text: "3",
    "null": lambda text: "null",
    "deep": lambda text: "[" * 100_000 + "]" * 100_000,
    "no schema": lambda text: text.replace('"schema"', '"scheme"'),
    "other version": lambda text: text.replace('"version": ', '"version": 99'),
    "NaN": lambda text: _each(text, lambda value: float("nan")),
    "huge": lambda text: _each(text, lambda value: 10**30),
    "texts": lambda text: _each(text, lambda value: "three"),
    "negative": lambda text: _each(text, lambda value: -7),
    "nothing": lambda text: _each(text, lambda value: None),
    "one class more": lambda text: text.replace('"stripe"', '"stripe", "moon"'),
    "infinite deviation": lambda text: re.sub(r'"std": \[[^]]*\]', '"std": [1e999, 1, 1]', text),
    "emptied": lambda text: json.dumps({key: json.loads(text)[key] for key in ("schema", "version")}),
}  # fmt: skip
"""Ways to spoil a JSON record."""


def _each(text: str, change: Callable[[Any], Any]) -> str:
    """Every number of a record changed but those of its version."""

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: walk(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return change(value) if number and key != "version" else value

    return json.dumps(walk(json.loads(text)))


MORE = {"one class more": "class", "infinite deviation": "std"}
"""Ways to spoil a model's record alone, and what is said of them."""
SAYS = {
    ("model.json", "texts"): "depth",
    ("model.json", "negative"): "depth",
    ("model.json", "nothing"): "depth",
    **{("plan.json", way): "--seed" for way in ("NaN", "huge", "texts", "negative", "nothing")},
}
"""What is said where a record is whole, but nothing can be made of its values; else the name of its file."""
NUMBERS = ("NaN", "huge", "texts", "negative", "nothing")


def records() -> Iterator[Case]:
    """Every record that is read, spoilt in every way, by a verb that reads it."""
    for way in ("one class more", "infinite deviation"):
        yield Case("record", ("predict", "{bad}", "{image}"), MORE[way], ("run", "model.json", way))
    for way in ("no schema", "other version", "emptied", "texts", "nothing"):
        yield Case("record", ("report", "{bad}", "-o", "out"), "front.json", ("search", "front.json", way))
    readers = {
        ("run", "model.json"): "predict {bad} {image}",
        ("search", "front.json"): "show {bad}",
        ("search", "model.json"): "eval {bad} --data {data}",
        ("search", "split.json"): "export {bad} -o out --data {data} --format onnx",
        ("shipped", "exported.json"): "check {bad}/model.f32.onnx -o out",
        ("eval", "eval.json"): "compare {bad} {eval}",
        ("fit", "fit.json"): "predict {bad} {image}",
        ("fit", "plan.json"): "fit {data} -o {bad} --model vit_tiny_patch16_224",
    }
    for (folder, file), command in readers.items():
        for way in sorted(SPOILT.keys() - MORE):  # every process of the suite counts them in one order
            if file != "exported.json" or way not in NUMBERS:  # none of its numbers is read
                yield Case("record", tuple(command.split()), SAYS.get((file, way), file), (folder, file, way))


CASES = [*numbers(), *grammar(), *values(), *inputs(), *records()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a run, a search, an exported file and an evaluation, and things that are none of these."""
    folder = tmp_path_factory.mktemp("place")
    write_images(folder / "data", each=20)
    write_run(folder / "run")
    for name in ("empty", "flat", "one/only", "bad"):
        (folder / name).mkdir(parents=True)
    image = (folder / "data" / "disc" / "0.png").read_bytes()
    (folder / "flat" / "0.png").write_bytes(image)
    (folder / "one" / "only" / "0.png").write_bytes(image)
    (folder / "cut.png").write_bytes(image[: len(image) // 2])
    (folder / "none.csv").write_text("these, are = no paths\n")
    (folder / "bad.csv").write_text("path,label\nnone.png,disc\n")
    (folder / "other.toml").write_text('colour = "red"\n')
    (folder / "true.toml").write_text("steps = true\n")
    os.mkfifo(folder / "fifo.png")
    write_fit(folder / "fit", folder / "data")
    made: tuple[tuple[object, ...], ...] = (
        ("search", "--budget", "flops=300K", "--population", 4, "--min-patches", 1, "--fix", "all", "--no-baselines",
         "--evaluations", 6),
        ("export", "--schedule", "14,11,8,8", "--format", "onnx", "--accept-inconclusive"),
        ("eval",),
    )  # fmt: skip
    for (verb, *flags), out in zip(made, ("search", "shipped", "eval"), strict=True):
        assert run(verb, folder / "run", "--data", folder / "data", "-o", folder / out, *flags) == 0
    return folder


def write_fit(folder: Path, data: Path) -> None:
    """The records that a fit goes by, of a fit that has just begun and of a finished one."""
    folder.mkdir()
    images = load_images(str(data))
    asked = {
        "data": images.name, "listing": images.sha256, "target": str(TargetDevice.parse("openvino:cpu").resolved()),
        "budgets": ["drop=1"], "seed": 0, "model": "vit_tiny_patch16_224", "weights": None, "image_size": None,
    }  # fmt: skip
    plan = {"model": "vit_tiny_patch16_224", "weights": "random", "image_size": 32, "adapt_steps": 1, "reasons": []}
    write_record(folder / "plan.json", "fit-plan", {"asked": asked, "plan": plan})
    row = {"name": "m", "run": "head", "file": "m.onnx", "configuration": {"schedule": [17] * 4}}
    write_record(folder / "fit.json", "fit", {"rows": [row], "recommended": 0, "advice": ""})


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, and every folder."""
    found: dict[str, tuple[int, int]] = {}
    with os.scandir(folder) as entries:  # a third of what ``rglob`` takes, four times a case
        for entry in entries:
            if entry.is_dir():
                found |= {entry.path: (0, 0)} | contents(Path(entry.path))
            else:
                facts = entry.stat()
                found[entry.path] = (facts.st_size, facts.st_mtime_ns)
    return found


def names(place: Path, here: Path) -> dict[str, Path]:
    """What the words of a case stand for."""
    own = {name: place / name for name in ("run", "data", "search", "eval", "empty", "flat", "one")}
    return own | {
        "onnx": place / "shipped" / "model.f32.onnx", "image": place / "data" / "disc" / "0.png",
        "cut": place / "cut.png", "csv": place / "none.csv", "badcsv": place / "bad.csv",
        "toml": place / "other.toml", "true": place / "true.toml", "fifo": place / "fifo.png", "bad": here / "bad",
    }  # fmt: skip


def prepared(case: Case, place: Path, here: Path) -> list[str]:
    """The words of a case, its spoilt folder made."""
    if case.spoil is not None:
        folder, file, way = case.spoil
        (here / "bad").mkdir()
        for path in (place / folder).iterdir():
            if path.is_file():
                (here / "bad" / path.name).write_bytes(path.read_bytes())
        (here / "bad" / file).write_text(SPOILT[way]((here / "bad" / file).read_text()))
    words = list(case.words)
    for name, path in names(place, here).items():
        words = [word.replace(f"{{{name}}}", str(path)) for word in words]
    return words


def one_sentence(said: str, words: Sequence[str]) -> str:
    """The last line, which must begin with the program and the verb."""
    assert "Traceback" not in said, said
    last = said.rstrip().splitlines()[-1]
    verb = f"fgvc-kit {words[0]}: " if words[0] in cli.VERBS else "fgvc-kit: "
    assert last.startswith(verb), said
    return last


@pytest.mark.parametrize("case", few(CASES, *CASES[::5]), ids=lambda case: case.name)
def test_bad_input_is_one_sentence_and_writes_nothing(
    case: Case, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = prepared(case, place, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(place), contents(tmp_path)
    capsys.readouterr()
    assert run(*words) == 2
    told = capsys.readouterr().err
    one_sentence(told, words)
    wanted = case.says.rpartition("}")[0].rpartition("{")[2]
    assert (names(place, tmp_path)[wanted].name if wanted else case.says) in told, told
    assert (contents(place), contents(tmp_path)) == before


def test_the_catalogue_is_large_and_says_each_case_once() -> None:
    assert len(CASES) >= 300 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.slow
def test_names_that_are_no_text_and_a_terminal_without_letters_are_no_bug(place: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff")
    data = write_images(tmp_path / "data", each=12, classes=("disc", odd))
    image = next((data / odd).iterdir())
    commands = (
        (("datasets",), {0}),
        (("predict", place / "run", image), {0}),
        (("train", place / "run", "--data", data, "--weights", "random", "-o", tmp_path / "out"), {0, 2}),
    )
    # One process for all of them: most of the time of each would go into its imports.
    code = """
import sys
from tavt_kit.cli import main
words, codes = sys.argv[1:], []
while words:
    end = words.index("--then")
    try:
        main(words[:end])
    except SystemExit as ended:
        codes.append(ended.code or 0)
    words = words[end + 1:]
open("codes", "w").write(repr(codes))
"""
    words = [os.fspath(word) for command, _ in commands for word in (*command, "--then")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, errors="replace")  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    ended = json.loads((tmp_path / "codes").read_text())
    assert len(ended) == len(commands), done.stderr
    assert all(code in allowed for code, (_, allowed) in zip(ended, commands, strict=True)), done.stderr


def test_a_real_process_says_the_same(place: Path, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.group == "record" and case.words[0] == "show")  # which loads no torch
    words = prepared(case, place, tmp_path)
    before = contents(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and contents(tmp_path) == before
    assert case.says in one_sentence(done.stderr, words)
