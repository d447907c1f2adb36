"""What the README and the pages of ``docs/`` show works, and their figures are those of the records."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from tavt_kit import cli
from tavt_kit.data import inherit_split, load_images
from tavt_kit.verbs import settings
from tests.verbs.tiny import write_images, write_run

ROOT = Path(__file__).parents[1]
WORKFLOWS = "tavt_kit.workflows"
README = (ROOT / "README.md").read_text()
TABLES = runpy.run_path(str(ROOT / "examples" / "studies" / "result_tables.py"))
GENERATED = runpy.run_path(str(ROOT / "docs" / "scripts" / "generated_pages.py"))["PAGES"]
PAGES = [path for path in TABLES["pages"]() if path.name != "README.md"]


def blocks(language: str, page: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_wrap_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python", "docs/how-it-works.md")
    exec(compile(example, "how-it-works.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["197x12", "torch.Size([2, 16])"]


def test_the_search_of_a_function_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python", "docs/extend.md")
    exec(compile(example, "extend.md", "exec"), {})
    assert int(capsys.readouterr().out) > 1


def test_the_python_of_the_readme_gives_what_the_functions_take() -> None:
    (example,) = blocks("python", "README.md")
    called = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    of_ours = [node for node in called if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "tk"]
    assert {node.func.attr for node in of_ours} >= {"load_model", "search", "export", "bench"}  # type: ignore[attr-defined]
    for node in of_ours:
        name = node.func.attr  # type: ignore[attr-defined]
        home = "tavt_kit.checkpoints" if name == "load_model" else f"tavt_kit.workflows.{name}"
        function = getattr(importlib.import_module(home), name)
        inspect.signature(function).bind(*node.args, **{str(word.arg): word.value for word in node.keywords})


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_images(tmp_path / "data", each=40)
    next(images.rglob("*.png")).rename(tmp_path / "photo.jpg")
    inherit_split(write_run(tmp_path / "runs" / "birds-distilled"), load_images(str(images)))
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", "README.md")
    small = "evaluations=12, baselines=False, table_seconds=2, measure_seconds=0.2"
    short = {'budget="latency=8ms"': f'budget="latency=1s", {small}',  # a busy machine keeps to it too
             "tk.bench(": "tk.bench(min_time=0.2, max_time=1, things="}  # fmt: skip
    for given, quick in short.items():
        assert given in example
        example = example.replace(given, quick)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    found = names["found"]
    assert (tmp_path / "shipped" / "model.f32.xml").is_file() and (tmp_path / found.report).is_file()
    assert found.best in found.front and found.baselines and len(found.to_frame()) == len(found.front)


def commands() -> list[tuple[str, str]]:
    """Every command of the kit that a page shows, with its page; one with [...] or ... is a pattern."""
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)]
    shown = [(page, line) for page in pages for block in blocks("", page) for line in joined(block).splitlines()]
    for page in pages:
        inline = re.findall(
            r"(?<!`)`(fgvc-kit [^`]+)`", re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.S | re.M)
        )
        shown += [(page, " ".join(words.split())) for words in inline]
    return [(page, line) for page, line in shown if re.match(r"fgvc-kit \w+ (?!.*\.\.\.)[^\[]*$", line)]


def joined(block: str) -> str:
    return block.replace("\\\n", " ")


class Reached(BaseException):
    """The workflow was called: the command line was understood."""


def test_every_command_of_the_pages_is_understood(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verbs, options and values, as far as the call of the workflow, which is not made; of some the options."""

    def refuse(home: str) -> None:
        place, name = home.split(":")
        module = importlib.import_module(
            "tavt_kit." + place.replace("/", ".") if "/" in place else f"{WORKFLOWS}.{place}"
        )
        function = getattr(module, name)

        @functools.wraps(function)
        def reached(*args: Any, **named: Any) -> None:
            inspect.signature(function).bind(*args, **named)
            raise Reached

        monkeypatch.setattr(module, name, reached)

    for home, _ in settings._WORKFLOWS.values():
        refuse(home)
    monkeypatch.chdir(tmp_path)
    found, wrong = commands(), list[str]()
    assert len(found) > 70 and {page for page, _ in found} >= {"README.md", "docs/tutorial.md", "docs/jobs.md"}
    for page, line in found:
        verb, *words = shlex.split(line, comments=True)[1:]
        looks_first = verb not in settings._WORKFLOWS or verb in ("convert", "profile")
        try:
            cli.main([verb, "--help"] if looks_first else [verb, *words])
        except Reached:
            continue
        except SystemExit as ended:
            said = capsys.readouterr()
            flags = {word for word in words if word.startswith("-")}
            if ended.code or not flags <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", said.out)):
                wrong.append(f"{page}: {line}: {said.err}")
    assert not wrong, "\n".join(wrong)


def test_tables_and_chart_are_those_of_their_records() -> None:
    made = ""
    for page in (ROOT / "README.md", *PAGES):
        text = page.read_text()
        assert TABLES["renew"](text) == text, f"{page}: run python examples/studies/result_tables.py"
        made += text
    for name in ("merging", "reductions", "search_cost", "search_cost_f32", "own_speed", "proof", "recommended"):
        assert f" by {name} of result_tables.py -->" in made
    assert TABLES["CHART"].read_text() == TABLES["merging_chart"](TABLES["read"](TABLES["UNTRAINED"]))


def without_blocks(text: str) -> str:
    return TABLES["BLOCK"].sub("", text)


def test_the_readme_shows_no_figure_without_a_record() -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", without_blocks(README), flags=re.DOTALL)
    assert not re.findall(r"\d[\d.,]*\s?(?:%|ms\b|x\b|points|times|GMACs)", prose)


def test_the_page_on_predictions_shows_what_was_missed() -> None:
    """Worst errors and another machine, not the favourable cells alone; and an install says that it needs an index."""
    page = (ROOT / "docs" / "prediction.md").read_text()
    worst = [float(share) for share in re.findall(r"(\d+\.\d+) %", page)]
    assert max(worst) > 25 and len(set(re.findall(r"Xeon|EPYC", page))) == 2 and "goals are missed" in page
    assert "PIP_EXTRA_INDEX_URL" in README and "PIP_EXTRA_INDEX_URL" in (ROOT / ".ci" / "setup").read_text()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda path: path.stem)
def test_a_measured_table_has_a_record_or_says_that_none_was_kept(page: Path) -> None:
    first, *sections = re.split(r"^## ", without_blocks(page.read_text()), flags=re.MULTILINE)
    for section in () if "No record kept" in first else (first, *sections):
        if re.search(r"^\|.*\d\.\d.*\|$", section, re.MULTILINE):
            assert "No record kept" in section, section.splitlines()[0]


def test_every_page_has_its_place_and_every_link_leads_somewhere() -> None:
    placed = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert re.search(rf" {page.relative_to(ROOT / 'docs')}$", placed, re.MULTILINE), page
    for page in (ROOT / "README.md", *PAGES):
        for link in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", page.read_text()):
            there = (page.parent / link).resolve()
            inside = there.is_relative_to(ROOT / "docs") and there.relative_to(ROOT / "docs").as_posix()
            assert there.exists() or inside in GENERATED, f"{page}: {link}"


def test_the_reference_has_every_verb_every_name_and_every_record() -> None:
    import tavt_kit as tk
    from tavt_kit.core.records import SCHEMAS

    verbs = GENERATED["reference/command-line.md"]()
    assert all(f"\n## {verb}\n" in verbs and f"Usage: fgvc-kit {verb} " in verbs for verb in cli.VERBS)
    names = set(re.findall(r"^::: tavt_kit\.[\w.]*\b(\w+)$", GENERATED["reference/python.md"](), re.MULTILINE))
    assert names == set(tk.__all__) - {"__version__"}
    records = GENERATED["reference/records.md"]()
    assert all(f"| `fgvc-kit/{kind}` | {version} |" in records for kind, version in SCHEMAS.items())
