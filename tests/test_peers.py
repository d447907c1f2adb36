"""The peers of ``examples/studies/peers`` do what their papers' formulas say."""

from __future__ import annotations

import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.bench.memory import memory_mark
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import inherit_split, load_images
from tavt_kit.errors import RecordError, ScheduleError, TargetError, UnsupportedBackbone
from tavt_kit.models.costs import count_pass
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import LeanViT, wrap
from tests.parity.official import load, state_of, timm_from_official
from tests.verbs.tiny import write_images, write_run

STUDIES = Path(__file__).resolve().parents[1] / "examples" / "studies"
GOLDEN = Path(__file__).parent / "reference"


@pytest.fixture(autouse=True)
def _studies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The studies importable, and forgotten again: ``peers`` is a script as well as a package."""
    monkeypatch.syspath_prepend(STUDIES)
    yield
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("peers", "reference_step") or name.startswith("seed_")
    ]:
        del sys.modules[name]


def shaken(depth: int = 4, **more: Any) -> Any:
    """A ViT of 17 tokens whose attention is not flat, LayerScale included."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "num_classes": 5, "init_values": 1.0}
    model = timm.create_model("vit_tiny_patch16_224", depth=depth, **{**options, **more}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 4.0 if "qkv.weight" in name else 0.5 if parameter.dim() > 1 else 0.2
            parameter.add_(scale * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_with_nothing_to_reduce_every_peer_is_the_model_itself() -> None:
    from peers.methods import Evit, RandomDrop, ToMe, TopK
    from peers.official import OfficialTavt

    bare, x = shaken(), images()
    dense = wrap(bare).dense_schedule
    for peer in (Evit(bare, 1.0), TopK(bare, 1.0), RandomDrop(bare, 1.0), ToMe(bare, 0), OfficialTavt(bare, dense)):
        torch.testing.assert_close(peer(x), bare(x), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_evit_keeps_what_the_class_token_looks_at_and_adds_up_the_rest() -> None:
    """Liang et al. (2022): of n patches ceil(keep n), by the mean over heads of the class row; sum of a_i x_i."""
    from peers.methods import Evit, TopK
    from peers.vit import attend

    bare = shaken()
    evit, top = Evit(bare, 0.55), TopK(bare, 0.55)
    assert evit.stages == (1, 2)
    assert evit.counts() == (17, 1 + 9 + 1, 1 + 6 + 1, 1 + 6 + 1)  # ceil(8.8), ceil(5.5)
    assert top.counts() == (17, 1 + 9, 1 + 5, 1 + 5)
    tokens = torch.randn(2, 17, 24)
    after, q, k = attend(bare.blocks[1], tokens, None)
    look = ((q[:, :, :1] @ k.transpose(2, 3)) * 8**-0.5).softmax(-1).mean(1)[:, 0]
    reduced, _ = evit.reduce(1, 17, after, q, k, None)
    for row in range(2):
        best = sorted(range(1, 17), key=lambda at: -float(look[row, at]))
        kept, rest = sorted(best[:9]), best[9:]
        torch.testing.assert_close(reduced[row, :10], after[row, [0, *kept]])
        fused = torch.stack([look[row, at] * after[row, at] for at in rest]).sum(0)
        torch.testing.assert_close(reduced[row, 10], fused, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(top.reduce(1, 17, after, q, k, None)[0], reduced[:, :10])


@torch.inference_mode()
def test_top_k_is_our_own_drop_by_the_class_tokens_score() -> None:
    from peers.methods import TopK

    bare, x = shaken(), images()
    top, model = TopK(bare, 0.5), wrap(bare, score="cls")
    torch.testing.assert_close(top(x), LeanViT(model, TokenSchedule(top.counts()))(x), rtol=0, atol=2e-5)


def test_a_share_that_is_none_and_a_model_without_a_class_token_are_refused() -> None:
    from peers.methods import ToMe, TopK

    with pytest.raises(ScheduleError, match="above 0"):
        TopK(shaken(1), 0.0)
    with pytest.raises(UnsupportedBackbone, match="one class token"):
        ToMe(shaken(1, class_token=False, global_pool="avg"), 2)


@torch.inference_mode()
def test_random_drop_draws_for_each_image_and_keeps_the_class_token() -> None:
    from peers.methods import RandomDrop

    drop = RandomDrop(shaken(), 0.25)
    keys = torch.zeros(400, 3, 17, 8)
    values = torch.arange(17.0).expand(400, 17)[..., None]
    reduced, _ = drop.reduce(1, 17, values, keys, keys, None)
    assert reduced.shape[1] == drop.counts()[1] == 5 and bool((reduced[:, 0] == 0).all())
    taken = np.bincount(reduced[:, 1:].flatten().long().numpy(), minlength=17)[1:]
    assert taken.min() > 60 and taken.max() < 140  # 100 of 400 each, if fair


def test_matching_is_that_of_a_brute_force_search() -> None:
    from peers.methods import match

    keys = torch.randn(5, 13, 8, generator=torch.Generator().manual_seed(2))
    for r, selection in itertools.product((1, 3, 6), ("argsort", "topk")):
        stay, go, into = match(keys, r, selection)
        for row in range(5):
            pairs = []
            for a in range(2, 13, 2):  # 0 is the class token
                like = {b: float(F.cosine_similarity(keys[row, a], keys[row, b], dim=0)) for b in range(1, 13, 2)}
                best = max(like, key=lambda b: like[b])
                pairs.append((like[best], a, best))
            wanted = {(a, b) for _, a, b in sorted(pairs, reverse=True)[:r]}
            assert {(2 * int(a), 2 * int(b) + 1) for a, b in zip(go[row], into[row], strict=True)} == wanted
            gone = {a for a, _ in wanted}
            assert [2 * int(a) for a in stay[row]] == [a for a in range(0, 13, 2) if a not in gone]


def test_merging_averages_by_size_and_loses_nothing() -> None:
    from peers.methods import match, merge

    x, sizes = torch.randn(2, 9, 4), torch.randint(1, 4, (2, 9, 1)).float()
    stay, go, into = match(x, 3)
    merged, after = merge(x, sizes, stay, go, into)
    assert merged.shape == (2, 6, 4)
    torch.testing.assert_close((merged * after).sum(1), (x * sizes).sum(1))
    torch.testing.assert_close(after.sum(1), sizes.sum(1))
    torch.testing.assert_close(merged[:, 0], x[:, 0])
    place, target = 2 * int(go[0, 0]), int(into[0, 0])
    members = [2 * int(a) for a, b in zip(go[0], into[0], strict=True) if int(b) == target] + [2 * target + 1]
    assert place in members
    mean = sum(sizes[0, at] * x[0, at] for at in members) / sum(sizes[0, at] for at in members)
    torch.testing.assert_close(merged[0, stay.shape[1] + target], mean)


@torch.inference_mode()
def test_proportional_attention_is_attention_on_duplicated_tokens() -> None:
    from peers.vit import attend

    block = shaken().blocks[0]
    copies = [1, 3, 2, 1, 4]
    tokens = torch.randn(2, 5, 24)
    sizes = torch.tensor(copies).float()[None, :, None].expand(2, -1, -1)
    repeated = tokens.repeat_interleave(torch.tensor(copies), dim=1)
    first = [sum(copies[:at]) for at in range(5)]
    expected, _, _ = attend(block, repeated, None)
    found, _, _ = attend(block, tokens, sizes)
    torch.testing.assert_close(found, expected[:, first], rtol=1e-5, atol=1e-5)
    plain, _, _ = attend(block, tokens, None)
    assert (plain - found).abs().max() > 1e-3


def test_tome_merges_r_tokens_in_every_layer_and_never_more_than_half() -> None:
    from peers.methods import ToMe

    bare = shaken(6)
    assert ToMe(bare, 3).counts() == (14, 11, 8, 5, 3, 3)
    merging = ToMe(bare, 2)
    assert merging.counts() == (15, 13, 11, 9, 7, 7)
    schedule = TokenSchedule(merging.counts())
    ours = count_pass(LeanViT(wrap(bare), schedule), images(1))
    # Beside our drop: every row is projected, and keys are compared.
    assert ours < count_pass(merging, images(1)) < 1.1 * ours


@torch.inference_mode()
@pytest.mark.parametrize("name", ["tavt_forward_a", "tavt_forward_overlap"])
def test_the_official_style_forward_gives_the_official_numbers(name: str) -> None:
    from seed_models import OfficialViT

    arrays, meta = load(GOLDEN, name)
    bare = timm_from_official(state_of(arrays), meta["config"])
    runs = {key.split("/")[0] for key in arrays if key.endswith("/logits")}
    plain = [run for run in sorted(runs) if f"{run}/layer_config" not in arrays]
    assert len(plain) > 1
    for run in plain:
        lengths = None if f"{run}/length_config" not in arrays else tuple(map(int, arrays[f"{run}/length_config"]))
        logits = OfficialViT(bare, lengths).eval()(torch.from_numpy(arrays["input"]))
        torch.testing.assert_close(logits, torch.from_numpy(arrays[f"{run}/logits"]), rtol=0, atol=5e-5)


@torch.inference_mode()
def test_the_official_style_models_answer_as_ours() -> None:
    from peers.official import OfficialTavt
    from seed_models import OfficialTransFg, OfficialViT

    bare, x = shaken(), images()
    taper = TokenSchedule.taper(TokenLayout(17, 4), ratio=0.3)
    torch.testing.assert_close(OfficialTavt(bare, taper)(x), LeanViT(wrap(bare), taper)(x), rtol=0, atol=1e-4)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}
    for name in ("transfg_base_patch16", "transfg_base_patch16_overlap12"):
        parts = timm.create_model(name, **small).eval()
        with torch.no_grad():
            for block in parts.blocks:
                block.attn.qkv.weight.mul_(6)
        torch.testing.assert_close(OfficialTransFg(parts)(x), wrap(parts)(x), rtol=0, atol=2e-5)
    split = timm.create_model("vit_base_patch16_overlap12", **{**small, "img_size": 40}).eval()
    x = images(size=40)
    assert wrap(split).tokens == 1 + ((40 - 8) // 12 + 1) ** 2
    torch.testing.assert_close(OfficialViT(split)(x), split(x), rtol=0, atol=2e-5)


def test_where_ours_loses_is_said_in_pairs() -> None:
    from peers.answers import Known
    from peers.plan import DENSE, SEARCHED, Row
    from peers.table import figures, losses, markdown

    def known(right: int) -> Known:
        return Known(10**9, np.arange(200) < right)

    rows = [Row(DENSE, "", "", wrap), Row(SEARCHED, "below 0.5", "", wrap), Row("EViT", "0.5", "", wrap),
            Row("ToMe", "r 4", "", wrap), Row("Top-K", "0.3", "", wrap)]  # fmt: skip
    right = dict(zip((row.name for row in rows), map(known, (160, 140, 150, 142, 90)), strict=True))
    ms = dict(zip(right, (10.0, 6.0, 6.5, 5.0, 7.0), strict=True))
    benched = [{"name": name, "latency_ms": {"samples": [at] * 8, "steady": True},
                "ratio": {"value": 10 / at, "low": 10 / at, "high": 10 / at, "n": 8}}
               for name, at in ms.items() if name != "ToMe r 4"]  # fmt: skip
    records = [
        {"target": "one", "refused": {"ToMe r 4": "no"}, "bench": {"candidates": benched}},
        {"target": "two", "refused": {}, "bench": {"candidates": [
            {**benched[0], "name": "ToMe r 4", "latency_ms": {"samples": [5.0] * 8, "steady": True}},
            benched[1]]}},
    ]  # fmt: skip
    entries = figures(rows, right, records)
    assert list(losses(entries, right, "one")) == [
        "EViT 0.5 (6.50 ms) against ours, searched below 0.5: +5.0 [+2.7, +9.0] points, the interval above 0."
    ]
    (sentence,) = losses(entries, right, "two")
    assert sentence.startswith("ToMe r 4 (5.00 ms): none of ours is as fast; +1.0 [")
    table = markdown(entries, ["one", "two"])
    assert table.count("\n") == 2 + len(rows) and "does not export" in table and "-10.0 [" in table


def test_the_chart_draws_a_line_for_each_method() -> None:
    from peers.chart import STYLES, chart

    top1 = {"value": 0.7, "ci95": [0.66, 0.74]}
    entries = [
        {"name": f"{method} {at}", "method": method, "top1": top1, "latency": {"openvino:cpu": {"median": 4.0 + at}}}
        for method in STYLES
        for at in (1, 2)
    ]
    text = chart([*entries, {**entries[0], "latency": {}}], "openvino:cpu", "a < b")
    assert text.count('class="run ') == len(STYLES) and text.count('class="mark ') == 2 * len(STYLES)
    assert "a &lt; b" in text and "<script" not in text
    assert all(f">{method}</text>" in text for method in STYLES)


@pytest.mark.slow
def test_the_study_of_the_peers_runs_to_its_end_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "data", each=40)
    inherit_split(write_run(tmp_path / "run"), load_images(str(tmp_path / "data")))
    out = tmp_path / "out"
    flags = "--steps 2 --batch 4 --evaluations 20 --max-seconds 0.2".split()
    words = ["peers.py", str(tmp_path / "run"), "--out", str(out), *flags]
    targets = ["--target", "openvino:cpu:threads=1", "--target", "torch:cpu:threads=1"]
    texts = []
    for more in ([], [], ["--seed", "1"]):
        monkeypatch.setattr(sys, "argv", [*words, *targets, *more])
        for name in [name for name in sys.modules if name.split(".")[0] == "peers"]:
            del sys.modules[name]
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(STUDIES / "peers.py"), run_name="__main__")
        assert ended.value.code == (2 if more else 0)
        texts.append(capsys.readouterr())
    assert texts[0].out == texts[1].out and "seed 0" in texts[2].err
    assert "answering" in texts[0].err and "training" in texts[0].err
    assert "answering" not in texts[1].err and "training" not in texts[1].err
    body = json.loads((out / "peers.json").read_text())
    rows = {row["name"]: row for row in body["rows"]}
    assert {"dense", "INT8 alone", "EViT 0.5", "ToMe r 2", "official-style TAVT 0.2", "lower resolution 16 px"} <= set(
        rows
    )
    for row in rows.values():
        assert row["top1"]["split"] == "test" and row["macs"] > 0
        assert all(times is None or "median" in times for times in row["latency"].values()), row["name"]
    assert (out / "peers-openvino.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_the_seeds_tables_are_made_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"seed_tables.py --out {tmp_path} --sizes 64 --size 64 --threads 1 --max-seconds 0.2".split()
    texts = []
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(STUDIES / "seed_tables.py"), run_name="__main__")
        assert ended.value.code == 0
        texts.append(capsys.readouterr())
    assert texts[0].out == texts[1].out and "counting" not in texts[1].err
    assert "| ViTAEv2-S at 64 |" in texts[0].out and "| ours, taper 0.2 |" in texts[0].out
    assert "does not run" not in texts[0].out
    kept = json.loads((tmp_path / "tavt-cpu-1-memory.json").read_text())["memory"]
    assert all(0 < kept[""]["mb"] < kept[row]["mb"] for row in kept if row)


def test_a_process_tells_its_own_peak_and_not_that_of_its_parent() -> None:
    before = memory_mark("VmHWM")
    held = np.ones(40_000_000, np.uint8)
    assert memory_mark("VmHWM") >= before > 30e6 and held.size
    code = "print(open('/proc/self/status').read().split('VmHWM:')[1])"
    if Path("/proc/self/status").exists():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert int(said.split()[0]) * 1024 < before


def test_a_row_says_why_it_does_not_run() -> None:
    import seed_tables

    assert seed_tables.reason(torch.OutOfMemoryError("CUDA out of memory.")) == "memory ran out"
    assert seed_tables.reason(TargetError("no compiler")) == "no compiler"
    with pytest.raises(RuntimeError, match="a defect"):
        seed_tables.reason(RuntimeError("a defect"))


def test_a_record_of_other_flags_is_refused(tmp_path: Path) -> None:
    import seed_tables

    seed_tables.part(tmp_path / "a.json", {"batch": 1}, lambda: {"times": {}})
    with pytest.raises(RecordError, match="choose another --out"):
        seed_tables.part(tmp_path / "a.json", {"batch": 2}, lambda: {"times": {}})
