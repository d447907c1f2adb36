"""The studies of ``examples/`` measure what they say: here that both sides of one compute the same."""

from __future__ import annotations

import importlib.util
import json
import random
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import inherit_split, load_images
from tavt_kit.distill.sampling import Sampler
from tavt_kit.distill.sandwich import sandwich_step
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tavt_kit.runtimes.available import is_available
from tavt_kit.search.algorithms.tavt import OfficialEvolution, first_ratios
from tests.verbs.command import run as command
from tests.verbs.tiny import write_images, write_run

STUDIES = Path(__file__).resolve().parents[1] / "examples" / "studies"


def study(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, STUDIES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a study may import another one
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_reference_step_gives_our_losses_and_gradients_and_costs_more() -> None:
    reference = study("reference_step")
    torch.manual_seed(0)
    bare = timm.create_model("vit_tiny_patch16_224", img_size=128, num_classes=5, depth=4)
    with torch.no_grad():
        for block in bare.blocks:
            block.attn.qkv.weight.mul_(4)
        bare.head.weight.normal_(0, 0.1)
    model, official = wrap(bare), reference.ReferenceViT(bare)
    images, labels = torch.randn(3, 3, 128, 128), torch.tensor([0, 2, 4])
    _, subs = Sampler(model.layout, bound=0.3).draw(np.random.default_rng(0))
    with FlopCounterMode(display=False) as theirs:
        expected = reference.reference_step(official, images, labels, subs)
    with FlopCounterMode(display=False) as ours:
        done = sandwich_step(model, images, labels, subs)
    for value, loss in zip((done.full["cross_entropy"], *done.divergences), expected, strict=True):
        assert value.item() == pytest.approx(loss.item(), abs=1e-5)
    pairs = {"patch_embed.proj.weight": official.patch.weight, "cls_token": official.cls_token,
             "pos_embed": official.pos_embed, "norm.weight": official.norm.weight, "head.weight": official.head.weight,
             "blocks.0.mlp.fc1.weight": official.layers[0].fc1.weight}  # fmt: skip
    pairs |= {f"blocks.{i}.attn.proj.weight": layer.out.weight for i, layer in enumerate(official.layers)}
    found = dict(model.named_parameters())
    for name, parameter in pairs.items():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(found[name].grad, parameter.grad, rtol=1e-4, atol=1e-5 * scale)
    packed = found["blocks.1.attn.qkv.weight"].grad
    assert packed is not None
    separate = [getattr(official.layers[1], each).weight.grad for each in ("query", "key", "value")]
    torch.testing.assert_close(packed, torch.cat(separate), rtol=1e-4, atol=1e-5 * float(packed.abs().max()))
    # The shared layer, and the rows of the last one that nobody reads.
    assert ours.get_total_flops() < 0.8 * theirs.get_total_flops()


def test_the_study_of_the_step_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    module = study("distill_step")
    flags = "--model vit_tiny_patch16_224 --image-size 32 --batch 2 --threads 1 --only"
    sizes = []
    for kind in ("nothing", "ours"):
        monkeypatch.setattr(sys, "argv", ["distill_step.py", *flags.split(), kind])
        module.main()
        sizes.append(float(capsys.readouterr().out.split(":")[1].rstrip("}\n")))
    assert 0 < sizes[0] <= sizes[1]


@pytest.mark.slow
def test_training_feed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--model", "test_vit", "--image-size", "64", "--batch", "4", "--images", "40", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["training_feed.py", *flags, "--updates", "1", "--rounds", "1"])
    runpy.run_path(str(STUDIES / "training_feed.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("| default:") == said.count("| ViTAE:") == 3 and "step alone" in said


def test_official_genes_scored_together_are_those_scored_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    official = study("official_search")
    tokens, layers, lower = 26, 5, (21, 17, 14, 12, 10)

    def macs(counts: tuple[int, ...]) -> int:
        return sum(1000 * count + 3 * count * count for count in counts)

    def score(counts: tuple[int, ...]) -> float:
        return random.Random(str(counts)).random() * sum(counts) / 130

    ground: Any = SimpleNamespace(
        model=SimpleNamespace(layout=TokenLayout(tokens, layers), tokens=tokens, layers=layers),
        official_formula=SimpleNamespace(macs=lambda schedule: macs(schedule.counts)),
        schedule=TokenSchedule,
        score=lambda split, schedules: [score(one.counts) for one in schedules],
        lower_gene=lower,
        bound=0.2,
    )
    table = official._made(ground, seed=3, iterations=4)
    random.seed(3)
    np.random.seed(3)
    direct = OfficialEvolution(tokens, macs, score, macs(lower), macs((tokens,) * layers))
    direct.add(lower)
    direct.add((tokens,) * layers)
    for ratio in first_ratios(0.2, 20):
        direct.add(TokenSchedule.taper(TokenLayout(tokens, layers), ratio).counts)
    for _ in range(4):
        direct.frontier()
        for make in (lambda: direct.mutate(0.5), direct.cross):
            made = 0
            while made < 30:
                made += make()
    assert table.genes == list(direct.store) and len(table.genes) > 150
    assert table.iterations == sorted(table.iterations) and set(table.iterations) == set(range(5))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_study_of_the_search_runs_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    write_images(tmp_path / "data", each=150)
    inherit_split(write_run(tmp_path / "run"), load_images(str(tmp_path / "data")))
    out = tmp_path / "out"
    flags = "--seeds 0,1 --iterations 2 --threads 1 --evaluations 60 --variants surrogate:16,nsga2:16"
    words = [str(tmp_path / "run"), "--out", str(out), *flags.split(), "--parts", "official,seconds,ours"]
    words += ["--precision", precision, "--evaluate-on", f"torch:{precision}"]
    monkeypatch.setattr(sys, "argv", ["search_cost.py", *words])
    known = ""
    for again in (False, True):
        runpy.run_path(str(STUDIES / "search_cost.py"), run_name="__main__")
        said = capsys.readouterr().out
        assert "| surrogate:16 |" in said and "less official" in said
        assert ("iteration 2 of 2" in said) is not again
        rows = json.loads((out / "search_cost.json").read_text())["ours"]["seeds"]
        made = [len((out / f"official-{precision}-{seed}.csv").read_text().splitlines()) - 1 for seed in (0, 1)]
        assert [row["official"]["evaluations"] for row in rows] == made
        scores = (out / f"scores-{precision}.csv").read_text()
        assert not again or scores == known
        known = scores


def test_the_search_algorithms_are_compared_at_equal_evaluations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    algorithms = study("search_algorithms")
    monkeypatch.setattr(sys, "argv", ["search_algorithms", "--seeds", "1", "--evaluations", "40"])
    algorithms.main()
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert set(table) == {"evaluations", *algorithms.ALGORITHMS} and table["evaluations"][1] == "40"
    assert float(table["surrogate"][1]) > float(table["nsga2"][1]) > float(table["tavt-official"][1])


@pytest.mark.slow
def test_export_speed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    module = study("export_speed")
    flags = f"--model vit_tiny_patch16_224 --image-size 64 --threads 1 --runs 6 --min-seconds 0.1 --max-seconds 0.5 " \
            f"--calibrate 2 --out {tmp_path}"  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["export_speed.py", *flags.split()])
    module.main()
    said = capsys.readouterr().out
    rows = json.loads((tmp_path / "export_speed.json").read_text())["rows"]
    halves = is_available(TargetDevice("openvino", "cpu", precision="bf16"))
    assert len(rows) == 2 * 4 + 3 * halves + 2 * 5 and said.count("taper:0.2, switchable |") == 2
    for row in rows:
        assert row["official_over"]["value"] > 0
        assert (row["share"] is None) == row["name"].endswith("dense")
        assert (row["switchable_over_static"] is None) == ("switchable" not in row["name"])


@pytest.mark.slow
def test_honesty_goes_on_where_it_was_stopped_and_tells_what_it_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    flags = f"--model vit_tiny_patch16_224 --image-size 64 --threads 1 --seconds 0.4 --turns 1 --out {tmp_path}".split()
    said = []
    for repeats in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["honesty.py", *flags, "--repeats", repeats])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(STUDIES / "honesty.py"), run_name="__main__")
        said.append(capsys.readouterr())
        body = json.loads((tmp_path / "honesty.json").read_text())
        assert ended.value.code == (0 if all(goal["met"] for goal in body["goals"]) else 1)
        assert said[-1].out.count("| met |") + said[-1].out.count("| **missed** |") == len(body["goals"])
    rows = body["rows"]
    assert {part: len(rows[part]) for part in ("steady", "bursts", "quiet", "peers")} == {
        "steady": 2, "bursts": 2, "quiet": 1, "peers": 3}  # fmt: skip
    assert "writing" in said[0].err and "writing" not in said[1].err and "zeros" not in said[1].err
    cheats = {row["plant"]: row for row in rows["cheats"]}
    for plant in ("zeros as input", "zeros but for one pixel", "a session that feeds zeros"):
        assert cheats[plant]["met"], cheats[plant]["said"]
    monkeypatch.setattr(sys, "argv", ["honesty.py", *flags, "--seconds", "9"])
    with pytest.raises(SystemExit, match="choose another --out"):
        runpy.run_path(str(STUDIES / "honesty.py"), run_name="__main__")


@pytest.mark.slow
def test_the_kits_own_speed_is_a_record_that_compare_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = STUDIES.parents[1] / "benchmarks" / "own_speed.py"
    flags = f"--model vit_tiny_patch16_224 --image-size 32 --threads 1 --seconds 0.05 --max-seconds 1 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["own_speed.py", *flags.split()])
    runpy.run_path(str(script), run_name="__main__")
    assert "this kind of machine: " in capsys.readouterr().out
    assert command("compare", tmp_path, tmp_path, "--reference", "bare model, torch") == 0
    said = capsys.readouterr().out
    for job in ("wrapped dense", "lean taper 0.2, openvino", "distillation step", "search, 60", "export to ONNX"):
        assert job in said


PROOF = """
budgets = [0.5]
budgets_macs = [0.5]
fewer = 1.2
calibrate = 4
val = 0.2
precisions = ["f32"]
begin = "train TINY -o {start} --data {data} {tune}"
tune = "--recipe finetune --set blocks=all --set probe=false {learn}"
learn = "--steps 2 --batch 4 --seed {seed}"
[sets.shapes]
data = "SHAPES"
numbers = 2
folds = true
augment = "flip"
[networks.start]
kind = "dense"
ask.8 = ["dense"]
[networks.ours]
kind = "ours"
run = ["distill {start} -o {out} --set reduction=merge --set image-sizes={s6} --set sampling=curve {learn}"]
ask = { 8 = ["17,9x3"], 6 = ["dense"] }
"""


@pytest.mark.slow
def test_the_proof_goes_on_from_kept_answers_and_mixes_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    study("proof_goals")
    proof, trained = study("proof"), list[str]()
    monkeypatch.setattr(
        proof, "run", lambda *words: (trained.append(Path(words[words.index("-o") + 1]).name), command(*words))
    )
    tiny, shapes = write_run(tmp_path / "tiny"), write_images(tmp_path / "shapes", each=10)
    table, kept = tmp_path / "table.toml", tmp_path / "kept"
    text = PROOF.replace("TINY", str(tiny)).replace("SHAPES", str(shapes))

    def prove(out: str, *more: str, table_text: str = text) -> tuple[list[str], str]:
        """Which networks were trained, and what was printed."""
        table.write_text(table_text)
        words = ["proof", "--out", str(tmp_path / out), "--table", str(table), "--answers", str(kept), "--size", "32"]
        monkeypatch.setattr(sys, "argv", [*words, "--only", "shapes-1", *more])
        trained.clear()
        proof.main()
        return list(trained), capsys.readouterr().out

    def rows(out: str) -> list[dict[str, Any]]:
        return list(json.loads((tmp_path / out / "proof.json").read_text())["rows"])

    assert prove("out", "--only", "start")[0] == ["start"]
    names, said = prove("out")
    assert names == ["start", "ours"] and "| ours | 32 17,9x3 f32 |" in said
    record = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert [row["asked"] for row in record["rows"]] == ["32 dense f32", "32 17,9x3 f32", "24 dense f32"]
    assert {tuple(row["on"]) for row in record["rows"]} == {("shapes-1",)}
    merged, file = record["rows"][1], kept / "32" / "shapes-1.json"
    answers = json.loads(file.read_text())
    bits = bin(int(answers["answers"]["ours"]["32 17,9x3 f32"]["test"], 16)).count("1")
    assert merged["test"]["value"] == bits / merged["test"]["n"] and str(tmp_path) not in file.read_text()
    assert len(answers["images"]["test"]) == 8 * merged["test"]["n"]
    cheap = next(one for one in record["goals"] if one["goal"].startswith("(b)"))
    assert cheap["points"] == merged["against_dense"] and cheap["verdict"] == "missed"  # on one set alone
    assert record["goals"][0]["points"] is None

    # Elsewhere, of the folder alone: nothing is trained, and no images are there to be listed.
    assert prove("elsewhere")[0] == [] and rows("elsewhere") == rows("out")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["proof.json"]
    # What is missing is trained, with what it begins with; the rest is not asked again.
    del answers["answers"]["ours"]["24 dense f32"]
    file.write_text(json.dumps(answers))
    assert prove("elsewhere")[0] == ["start", "ours"] and rows("elsewhere") == rows("out")
    # Of other commands: left out of a report, and made anew.
    other = text.replace("sampling=curve", "sampling=bound")
    assert [row["network"] for row in (prove("report", "--step", "report", table_text=other), rows("report"))[1]] == [
        "start"
    ]
    assert prove("other", table_text=other)[0] == ["start", "ours"]
    assert prove("again", table_text=other)[0] == []
    # Of other images: refused in a sentence.
    fewer = write_images(tmp_path / "fewer", each=9)
    before = file.read_text()
    with pytest.raises(SystemExit, match="lists other images than .*shapes-1.json answers: give another --answers"):
        prove("fewer", "--data", f"shapes={fewer}", table_text=other)
    assert trained == [] and file.read_text() == before


def test_the_proof_reports_the_times_of_this_cpu_or_of_the_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    study("proof_goals")
    proof = study("proof")
    here = proof.HostFacts.gather().as_record()
    mine, old, new = ({"host": host, "target": "t", "ms": {}} for host in (
        here, {"cpu": "Old", "flags": []}, {"cpu": "New", "flags": ["avx2"]}))  # fmt: skip

    def chosen(*machines: dict[str, Any], asked: str | None = None) -> Any:
        proof.keep(tmp_path / "112" / "latency.json", {"machines": machines})
        return proof.times_of(SimpleNamespace(answers=tmp_path, size=112, times=asked, target="t"))

    assert chosen() is None and chosen(old, new) is None
    assert chosen(old) == old and chosen(old, mine, new) == mine and chosen(old, mine, new, asked="New") == new
    with pytest.raises(SystemExit, match="no times of a CPU 'none'"):
        chosen(old, asked="none")
    assert study("proof_goals").machines(
        [{**old["host"], "date": "2026-01-02T"}, {**new["host"], "date": "2026-01-01"}]
    ) == ("Old () and New (avx2), 2026-01-01 to 2026-01-02")


def test_the_proof_chooses_on_val_and_weighs_sets_equally() -> None:
    goals = study("proof_goals")

    def row(folder: str, network: str, kind: str, macs: int, val: str, test: str) -> Any:
        bits = [np.array(list(each), int).astype(bool) for each in (val, test)]
        reduced, name = kind == "ours", f"{macs} {network}"
        images = ("a", "b", "c", "d") if folder[0] == "x" else ("e", "f")
        return goals.Row(folder[0], Path(folder), network, kind, "8 s int8", macs, reduced, name, *bits, images, {})

    def fold(name: str, images: int) -> list[Any]:
        whole = row(name, "whole", "dense", 100, "11", "1" * images)
        small = row(name, "small", "other", 40, "11", "10" * (images // 2))
        lucky = row(name, "lucky", "other", 40, "01", "1" * images)  # better on test alone
        large = row(name, "large", "ours", 60, "11", "1" * images)  # over the budget
        ours = row(name, "ours", "ours", 50, "11", "10" if name[0] == "y" else "1110")
        return [whole, small, lucky, large, ours]

    folds = [fold("x-0", 4), fold("x-1", 4), fold("y-0", 2)]
    networks = {name: {} for name in ("whole", "small", "lucky", "large", "ours")} | {"every": {"all": True}}
    asked = {"budgets_macs": [0.5], "budgets": [1.0], "fewer": 3.0, "networks": networks}
    dense = {found[0].folder: found[0] for found in folds}
    first, above, *_ = goals.judged(asked, folds, dense, None)
    assert first["chosen"] == [f"{name}: ours 8 s int8 against small 8 s int8" for name in ("x-0", "x-1", "y-0")]
    assert first["sets"]["x"][0] == 25 and first["sets"]["y"][0] == 0 and first["points"][0] == 12.5
    assert first["verdict"] == "missed" and above["verdict"] == "missed: 0 sets, 1 asked"  # so few images say little
    clear = [[each if each.network != "small" else row(each.folder.name, "small", "other", 40, "11", "0" * 4)
              for each in found] for found in folds[:1]]  # fmt: skip
    first, above, *_ = goals.judged(asked, clear, dense, None)
    assert first["verdict"] == "met" and above["verdict"].startswith("met: 1 sets")
    times = {"ms": {each.architecture: {"p90": 1.0 if each.network == "large" else 10.0} for each in folds[0]}}
    timed, *_ = goals.judged(asked, folds[:1], dense, times)
    assert timed["chosen"] == ["x-0: ours 8 s int8 against small 8 s int8"]  # of equals on val the cheaper
    every = replace(row("x-0", "every", "ours", 40, "11", "1110"), architecture="40 small")
    _, _, _, for_all, _ = goals.judged(asked, [[*folds[0], every]], dense, None)
    assert for_all["goal"].startswith("(c) every") and for_all["points"][0] == 25 and for_all["verdict"] == "met"


@pytest.mark.slow
def test_the_study_of_verdicts_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = study("verdicts")
    monkeypatch.setattr(module, "LENGTHS", (60, 200))
    monkeypatch.setattr(sys, "argv", ["verdicts.py", "--draws", "3", "--out", str(tmp_path / "verdicts.json")])
    module.main()
    found = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))
    assert {one["statistic"] for one in found["latency"]} == {"p50", "p90", "p99"} and len(found["choices"]) == 12
    kept = json.loads((STUDIES / "results" / "verdicts.json").read_text(encoding="utf-8"))
    assert kept["stored"] == found["stored"]  # no draw is in it
    false = [one["false_pass"] for one in kept["latency"]] + [one["after"] / one["thirds"] for one in kept["stored"]]
    false += [one["false_pass"] for one in kept["chosen"]]
    assert {one["measured"] for one in kept["chosen"]} == {8, 50, 300} == {one["measured"] for one in found["chosen"]}
    minute = [one for one in kept["chosen"] if one["runs"] == 3000 and one["measured"] == 8 and one["memory"] < 0.9]
    assert min(one["power"]["5"] for one in minute) >= 0.8  # of what a search measures, inside by 5 %, in a minute
    assert max(false) <= 0.05
