from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.core.records import command_line, sha256_file, write_record
from tavt_kit.reports import write_report
from tavt_kit.reports.provenance import commands_of
from tavt_kit.reports.records import gather
from tests.reports.pages import Page
from tests.reports.records import EMPTY_FRONT, write_run
from tests.reports.test_looked_at import write_explained


def test_classes_confusions_and_images_of_the_chosen_schedule(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=("crack", "good"))
    page = Page(write_report([run.folder], tmp_path / "out").html.read_text(encoding="utf-8"))
    assert "6 images became wrong and 2 right. 1 of 2 classes lost" in page.text
    assert "Confusions that grew, in images. Class taken for Dense File crack good 12 16" in page.text
    assert "3 images that the dense model has right and the file wrong" in page.text
    assert "crack 56 71.4 % 64.3 % −7.1" in page.text.replace("\u00a0", " ")
    front = json.loads((run.folder / "front.json").read_text())
    front["chosen"] = (front["chosen"] + 1) % len(front["candidates"])
    (run.folder / "front.json").write_text(json.dumps(front))
    other = write_report([run.folder], tmp_path / "other")
    assert "What each class lost" not in other.html.read_text(encoding="utf-8"), "that file is of another schedule"
    assert "not of the schedule chosen here" in other.html.read_text(encoding="utf-8")


def test_the_most_images_that_can_be_shown_stay_below_six_megabytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", classes=("crack", "good"))
    for image in run.folder.rglob("*.jpg"):
        image.write_bytes(b"\xff\xd8\xff" + bytes(99_990))
    kept = json.loads((run.folder / "kept.json").read_text())
    kept["images"] = 20 * kept["images"]
    (run.folder / "kept.json").write_text(json.dumps(kept))
    check = json.loads((run.folder / "check.json").read_text())
    check["checks"][0]["losses"]["examples"] *= 10
    (run.folder / "check.json").write_text(json.dumps(check))
    write_explained(run.folder / "explained", 7)
    _fill(run.folder / "explained/explained.json", 1_000_000 // 6)
    page = write_report([run.folder], tmp_path / "out").html
    assert 4_500_000 < page.stat().st_size < 6_000_000
    text = page.read_text(encoding="utf-8")
    assert text.count("<image ") == 24 and text.count("<img ") == 6


def _fill(record: Path, most: int) -> None:
    """Make each image that a record names as large as it may be."""
    body = json.loads(record.read_text())
    for entry in body.get("files", body.get("images")):
        image = record.parent / entry["file"]
        if image.suffix == ".png":
            image.write_bytes(image.read_bytes().ljust(most, b"\0"))
            entry["sha256"] = sha256_file(image)
    record.write_text(json.dumps(body))


def test_commands_stand_in_the_order_of_the_work(tmp_path: Path) -> None:
    for name, verb in (("b", "distill"), ("a", "train")):
        (tmp_path / name).mkdir()
        body = {"verb": verb, "command": f"fgvc-kit {verb} x"}
        write_record(tmp_path / name / "run.json", "run", body)
    write_record(tmp_path / "front.json", "front", {**EMPTY_FRONT, "command": "fgvc-kit search x"})
    for kind, verb in (("bench", "bench"), ("check", "check"), ("exported", "export"), ("profile", "profile")):
        write_record(tmp_path / f"{kind}.json", kind, {"command": f"fgvc-kit {verb} y"})
    write_record(tmp_path / "eval.json", "eval", {"command": "fgvc-kit eval y"})
    work = ("train x", "distill x", "profile y", "search x", "export y", "check y", "bench y", "eval y")
    assert list(commands_of(gather([tmp_path]))) == [f"fgvc-kit {one}" for one in work]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/x/bin/fgvc-kit", "search", "my run"], "fgvc-kit search 'my run'"),
        (["cli.py", "demo"], "fgvc-kit demo"),
        (["/x/tavt_kit/__main__.py", "demo"], "fgvc-kit demo"),
        (["/x/pytest/__main__.py", "-q"], None),
        ([""], None),
    ],
)
def test_the_command_that_is_running(argv: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == said
