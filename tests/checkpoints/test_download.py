"""Fetching from a server of our own: whole or not at all, checked, and one sentence for what fails."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tavt_kit.checkpoints.hub import fetch
from tavt_kit.errors import CheckpointError, OutputError, TavtError
from tests.checkpoints.conftest import CONTENT, Shop
from tests.workflows.told import Told

SHA256 = hashlib.sha256(CONTENT).hexdigest()
HTTP = ("http",)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("published", [SHA256, SHA256[:8], ""])
def test_a_file_is_fetched_once_and_checked_every_time(published: str, shop: Shop, tmp_path: Path) -> None:
    file, told = tmp_path / "new" / "w.npz", Told()
    found = fetch(f"{shop.url}/moved", file, sha256=published, schemes=HTTP, progress=told)
    assert (found.sha256, found.is_new, found.is_first) == (SHA256, True, not published)
    assert file.read_bytes() == CONTENT and told.shares[-1] == 1.0
    assert (tmp_path / "new" / "w.npz.sha256").read_text() == f"{SHA256}  w.npz\n"
    again = fetch(f"{shop.url}/w.npz", file, sha256=published, schemes=HTTP)
    assert (again.is_new, again.is_first, shop.asked) == (False, False, 1)
    assert names(file.parent) == ["w.npz", "w.npz.sha256"]
    file.write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"but .* was found; move .* away to fetch it anew"):
        fetch(f"{shop.url}/w.npz", file, sha256=published, schemes=HTTP)
    file.unlink()
    assert fetch(f"{shop.url}/w.npz", file, sha256=published, schemes=HTTP).is_new


def test_what_broke_off_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.breaks = True
    with pytest.raises(CheckpointError, match="broke off after 5,120 of 10,240 bytes; fetch it again"):
        fetch(f"{shop.url}/w.npz", tmp_path / "w.npz", schemes=HTTP)
    assert names(tmp_path) == []
    shop.breaks = False
    assert fetch(f"{shop.url}/w.npz", tmp_path / "w.npz", schemes=HTTP).is_new
    assert (tmp_path / "w.npz").read_bytes() == CONTENT


def test_a_server_that_does_not_say_the_size(shop: Shop, tmp_path: Path) -> None:
    shop.says_size = False
    assert fetch(f"{shop.url}/w.npz", tmp_path / "w.npz", sha256=SHA256, schemes=HTTP).sha256 == SHA256


def test_another_file_than_was_published_or_noted(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    with pytest.raises(CheckpointError, match=r"must have the SHA-256 0{64} \(published\).*; nothing was kept"):
        fetch(f"{shop.url}/w.npz", file, sha256="0" * 64, schemes=HTTP)
    assert names(tmp_path) == []
    fetch(f"{shop.url}/w.npz", file, schemes=HTTP)
    file.unlink()
    shop.content = b"another"
    with pytest.raises(CheckpointError, match=r"\(noted in w.npz.sha256, which you may remove\).*nothing was kept"):
        fetch(f"{shop.url}/w.npz", file, schemes=HTTP)
    assert names(tmp_path) == ["w.npz.sha256"]
    (tmp_path / "w.npz.sha256").write_text("nonsense")
    with pytest.raises(CheckpointError, match="holds no SHA-256"):
        fetch(f"{shop.url}/w.npz", file, schemes=HTTP)


@pytest.mark.parametrize(
    ("path", "schemes", "says"),
    [
        ("/absent", HTTP, "answered with 404 Not Found; fetch it elsewhere and put it at"),
        ("/page", HTTP, "answered with a web page"),
        ("/away", HTTP, "by http only, not from ftp://example.org"),
        ("/w.npz", ("https",), "by https only, not from http:"),
    ],
)
def test_what_is_not_the_file(path: str, schemes: tuple[str, ...], says: str, shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        fetch(shop.url + path, tmp_path / "new" / "w.npz", schemes=schemes)
    assert "\n" not in str(caught.value) and names(tmp_path) == []


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be reached .*; without a network fetch it elsewhere"):
        fetch("http://127.0.0.1:9/w.npz", tmp_path / "new" / "w.npz", schemes=HTTP)
    assert names(tmp_path) == []


def test_no_room(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OutputError, match="are to come, but .* has room for 0 MB"):
        fetch(f"{shop.url}/w.npz", tmp_path / "w.npz", schemes=HTTP)
    (tmp_path / "file").write_text("")
    with pytest.raises(TavtError, match="cannot write"):
        fetch(f"{shop.url}/w.npz", tmp_path / "file" / "w.npz", schemes=HTTP)
    assert "w.npz" not in names(tmp_path)
