from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.progress import Silent
from tavt_kit.data import ImageSet
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill import train, train_recipe
from tavt_kit.distill.common import evaluate_sweep, judge_of
from tavt_kit.distill.datasets import read_images
from tavt_kit.distill.options import Objective, TrainingOptions
from tavt_kit.distill.run_folder import read_metrics
from tavt_kit.errors import RecordError, ScheduleError, TrainingError, UnknownName
from tavt_kit.models.wrap import AdaptiveViT
from tests.parameters import few

Make = Callable[..., AdaptiveViT]
PROBE = train_recipe("probe", precision="f32")
FINETUNE = train_recipe("finetune", blocks=2, steps=5, batch=4, precision="f32")


def test_a_probe_changes_the_head_alone_and_reports_what_the_model_does(
    make_model: Make, images: ImageSet, tmp_path: Path
) -> None:
    record = train(make_model(), images, tmp_path, PROBE)
    before, model = make_model().state_dict(), load_model(tmp_path)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    val = read_images(images.split("val"), Preprocessing((64, 64)))
    (dense,) = evaluate_sweep(model, val, {"dense": model.dense_schedule})
    assert Accuracy.from_record(record["results"]["val"]) == dense.accuracy
    assert dense.accuracy.value > 0.6  # random features see colours
    assert record["asked"]["recipe"] == "probe" and "steps" not in record["asked"]
    assert record["results"]["pictures"] == {"train": 36, "val": 12}
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "state").exists()


def test_finetune_goes_on_from_the_probe_with_the_last_blocks(
    make_model: Make, images: ImageSet, tmp_path: Path
) -> None:
    record = train(make_model(), images, tmp_path, FINETUNE)
    before, after = make_model().state_dict(), load_model(tmp_path).state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert all(name.startswith(("blocks.4.", "blocks.5.", "norm.", "head.", "fc_norm.")) for name in changed)
    assert any(name.startswith("blocks.4.") for name in changed)
    assert len(read_metrics(tmp_path)) == 5 and record["results"]["loop"]["steps"] == 5
    assert record["asked"]["freeze"] == 4 and "last 2 blocks" in load_model(tmp_path).require_card().provenance


def test_a_network_is_fine_tuned_for_one_schedule(make_model: Make, images: ImageSet, tmp_path: Path) -> None:
    """Its gradients are those of the reduced pass, and the run is opened, judged and described under the schedule."""
    model = make_model()
    model.reduction = "merge"
    recipe = replace(FINETUNE, schedule="17x2,9x2,5x2", blocks="all")
    record = train(model, images, tmp_path / "merged", recipe)
    loaded = load_model(tmp_path / "merged")
    assert str(loaded.schedule) == str(model.schedule) == "17x2,9x2,5x2" and loaded.reduction == "merge"
    assert "for the schedule 17x2,9x2,5x2" in loaded.require_card().provenance
    val = read_images(images.split("val"), Preprocessing((64, 64)))
    (under,) = evaluate_sweep(loaded, val, {"own": loaded.schedule})
    assert Accuracy.from_record(record["results"]["val"]) == under.accuracy
    assert record["asked"]["schedule"] == "17x2,9x2,5x2"
    dense = train(make_model(), images, tmp_path / "dense", replace(FINETUNE, blocks="all"))
    assert "schedule" not in dense["asked"] and load_model(tmp_path / "dense").require_card().schedule is None
    other = load_model(tmp_path / "dense").state_dict()
    assert not all(torch.equal(tensor, other[name]) for name, tensor in loaded.state_dict().items())


def test_a_schedule_that_does_not_fit_is_refused_before_anything_is_written(
    make_model: Make, images: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(ScheduleError):
        train(make_model(), images, tmp_path / "out", replace(FINETUNE, schedule="197x12"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"blocks": 0}, {"loss": "contrastive"}])
def test_what_cannot_learn_under_a_schedule_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="schedule=stages:0.3"):
        train_recipe("finetune", schedule="stages:0.3", **changes)


@pytest.mark.parametrize("loss", few(["cross_entropy", "features"], "features"))
def test_an_interrupted_finetune_is_continued_without_a_second_probe(
    make_model: Make, images: ImageSet, tmp_path: Path, loss: str
) -> None:
    recipe = replace(FINETUNE, objective=Objective(loss))
    train(make_model(), images, tmp_path / "straight", recipe)
    stages: list[str] = []

    class Watcher(Silent):
        def stage(self, what: str, total: int, done: int = 0) -> None:
            stages.append(f"{what} {done}/{total}")

        def advance(self, units: int = 1, **values: float) -> None:
            if stages[-1] == "finetune 0/5":
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(make_model(), images, tmp_path / "broken", recipe, progress=Watcher())
    train(make_model(), images, tmp_path / "broken", recipe, progress=Watcher())
    assert stages == ["features 0/48", "finetune 0/5", "finetune 1/5", "evaluate 0/1"]
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "broken"))
    assert first == second


def test_what_cannot_be_is_refused(make_model: Make, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="finetune, .*probe"):
        train_recipe("everything")
    with pytest.raises(TrainingError, match="1 to 6"):
        train(make_model(), images, tmp_path, train_recipe("finetune", blocks=7))
    with pytest.raises(TrainingError, match="1 to 36"):
        train(make_model(), images, tmp_path, train_recipe("finetune", batch=37))
    with pytest.raises(TrainingError, match="f32 or bf16"):
        train(make_model(), images, tmp_path / "x", train_recipe(precision="int8"))
    with pytest.raises(TrainingError, match="auto, cpu or cuda"):
        train(make_model(), images, tmp_path / "x", device="tpu")
    with pytest.raises(TrainingError, match="CUDA devices"):
        train(make_model(), images, tmp_path / "x", device="cuda:99")


def test_the_best_averaged_weights_on_val_are_written(make_model: Make, images: ImageSet, tmp_path: Path) -> None:
    running = TrainingOptions(precision="f32", ema=0.5, evaluate_every=2, metric="macro_f1")
    recipe = replace(FINETUNE, running=running)
    record = train(make_model(), images, tmp_path, recipe)
    selected = record["results"]["loop"]["selected"]
    evaluated = {line["step"]: line["val_macro_f1"] for line in read_metrics(tmp_path) if "val_macro_f1" in line}
    assert set(evaluated) == {2, 4, 5} and evaluated[selected["step"]] == max(evaluated.values()) == selected["value"]
    val = read_images(images.split("val"), Preprocessing((64, 64)))
    judge = judge_of(running, val, images.classes, (make_model().dense_schedule,))
    assert judge.value(load_model(tmp_path)) == selected["value"]
    with pytest.raises(TrainingError, match=r"ema 0.5 \(now none\); metric macro_f1 \(now loss\)"):
        train(make_model(), images, tmp_path, replace(recipe, running=replace(running, ema=None, metric="loss")))
    # What does not decide the result may be another.


def test_a_run_goes_on_in_its_recorded_precision_on_any_processor(
    make_model: Make, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "tavt_kit.runtimes.torch_session.processor"
    monkeypatch.setattr(place, lambda: ("AMD EPYC", ("avx512_bf16",)))
    first = train(make_model(), images, tmp_path / "run", train_recipe("probe"))
    assert first["asked"]["precision"] == "bf16"
    monkeypatch.setattr(place, lambda: ("Intel(R) Xeon(R)", ("avx512_bf16",)))
    assert train(make_model(), images, tmp_path / "run", train_recipe("probe")) == first
    with pytest.raises(TrainingError, match=r"precision bf16 \(now f32\)"):
        train(make_model(), images, tmp_path / "run", train_recipe("probe", precision="f32"))
    assert (
        train(make_model(), images, tmp_path / "run", train_recipe("probe"), fresh=True)["asked"]["precision"] == "f32"
    )
    (tmp_path / "run" / "run.json").write_text('{"schema": "fgvc-kit/run", "version": 1, "verb": "train", "asked": []}')
    with pytest.raises(RecordError, match="cannot be used"):
        train(make_model(), images, tmp_path / "run", train_recipe("probe"))
