"""An artifact against its source on real files: sound ones pass, each deliberate fault is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tavt_kit.checks import Artifact, Gate, Source, check
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.budget import Verdict
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import DataError, ScheduleError
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, wrap
from tavt_kit.runtimes import open_module
from tavt_kit.runtimes.session import check_images
from tests.contracts import zoo

CLASSES = tuple("abcdefg")
SCHEDULE = TokenSchedule((14, 11, 8, 8))
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Fake:
    """A session whose answers are those of torch, spoilt by a function."""

    def __init__(self, inner: Run, spoil: Callable[[Run, NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self.inner, self.spoil = inner, spoil
        self.target = TargetDevice("openvino", "cpu", threads=1)
        self.load_ms, self.input_shape = 0.0, (None, 3, 64, 64)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.spoil(self.inner, images)


@pytest.fixture(scope="module")
def adaptive() -> AdaptiveViT:
    model = wrap(zoo.build("plain"))
    preprocessing = Preprocessing((64, 64), 1.0).as_record()
    model.card = ModelCard("timm_vit", "small", {}, CLASSES, preprocessing, weights_sha256="ab")
    return model


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    made = []
    for i in range(21):
        path = folder / f"{i}.png"
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((80, 70), Image.Resampling.BICUBIC).save(path)
        made.append(Sample(path, i % 7))
    return made


@pytest.fixture(scope="module")
def source(adaptive: AdaptiveViT, samples: list[Sample]) -> Source:
    return Source(adaptive, samples, "test")


def _fake(source: Source, spoil=lambda run, images: run(images), **changes: object) -> Artifact:  # type: ignore[no-untyped-def]
    adaptive = source.adaptive
    values = {"schedule": SCHEDULE, "tokens": adaptive.tokens, "prefix": adaptive.prefix}
    card = replace(ArtifactCard(adaptive.require_card(), **values), **changes)  # type: ignore[arg-type]
    schedule = SCHEDULE if card.schedule.layers != adaptive.layers else card.schedule
    lean = LeanViT(adaptive, schedule).eval()
    inner = open_module(lean, TargetDevice("torch", "cpu", threads=1), (2, 3, 64, 64))
    return Artifact("fake.xml", card, Fake(inner, spoil), ())  # type: ignore[arg-type]


def _off_by_one(source: Source) -> Artifact:
    """Says one schedule, runs another."""
    other = _fake(source, schedule=TokenSchedule((14, 11, 9, 9)))
    return replace(other, card=replace(other.card, schedule=SCHEDULE))


def _int8(artifact: Artifact, **calibration: object) -> Artifact:
    """Says that it is int8, and runs as such."""
    given = {"split": "train", "images": 300, **calibration}
    artifact.session.target = replace(artifact.session.target, precision="int8")  # type: ignore[misc]
    return replace(artifact, card=artifact.card.quantized(given))


def _spoilt_preprocessing(**changes: object) -> Callable[[Source], Artifact]:
    def make(source: Source) -> Artifact:
        record = {**source.adaptive.card.preprocessing, **changes}
        return _fake(source, model=replace(source.adaptive.card, preprocessing=record))

    return make


def _mixed(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Right at 1 and at the batch of the main pass, silently wrong at others."""
    logits = run(images)
    return logits if len(images) != 5 else np.roll(logits, 1, axis=0)


def _not_finite(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows from the fourth on are NaN, unless the batch is one of the main pass, whose last has five images."""
    logits = run(images)
    if len(images) not in (8, 5):
        logits[3:] = np.nan
    return logits


def _once_not_finite() -> Callable[[Run, NDArray[np.float32]], NDArray[np.float32]]:
    """One image of the first batch of four is NaN, and no other ever."""
    met: list[bool] = []

    def spoil(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = run(images)
        if len(images) == 4 and not met:
            met.append(True)
            logits[2] = np.nan
        return logits

    return spoil


def _fourth_row(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """One image of a batch of five gets the logits of its neighbour."""
    logits = run(images)
    if len(images) == 5:
        logits[3] = logits[2]
    return logits


def _stale(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return run(images) + np.linspace(0, 0.2, 7, dtype=np.float32)


FAULTS: dict[str, Callable[[Source], Artifact]] = {
    "channels swapped": lambda s: _fake(s, lambda run, x: run(np.ascontiguousarray(x[:, ::-1]))),
    "wrong mean": _spoilt_preprocessing(mean=[0.5, 0.5, 0.5]),
    "wrong crop": _spoilt_preprocessing(crop_pct=0.875),
    "wrong interpolation": _spoilt_preprocessing(interpolation="nearest"),
    "classes permuted": lambda s: _fake(s, model=replace(s.adaptive.card, classes=CLASSES[::-1])),
    "off by one token": _off_by_one,
    "stale weights": lambda s: _fake(s, _stale),
    "no number": lambda s: _fake(s, lambda run, x: run(x) * np.float32("nan")),
    "batches mixed": lambda s: _fake(s, _mixed),
    "not finite in a few rows of another batch": lambda s: _fake(s, _not_finite),
    "the same in 8 bits": lambda s: _int8(_fake(s, _not_finite)),
    "not finite once, in 8 bits": lambda s: _int8(_fake(s, _once_not_finite())),
    "one row of a batch of five": lambda s: _fake(s, _fourth_row),
    "one row of a batch of five, in 8 bits": lambda s: _int8(_fake(s, _fourth_row)),
}


def test_a_sound_artifact_passes(source: Source) -> None:
    report = check(_fake(source), source, Gate())
    assert report.verdict is Verdict.PASS
    assert (report.agreement, report.strayed, report.same_weights) == (1.0, 0, True)
    assert report.largest_difference is not None
    assert report.largest_difference < 1e-4
    assert (report.source_top1.split, report.source_top1.n) == ("test", 21)
    assert report.dense_top1 is not None
    assert report.against_dense is not None
    assert report.batches.sizes == (8, 1, 2, 3, 4, 6, 7, 16, 5)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault: str, source: Source) -> None:
    report = check(FAULTS[fault](source), source, Gate(), dense=False)
    assert report.verdict is Verdict.FAIL, report.sentence
    assert report.reason


@pytest.mark.parametrize("size", [1, 8])
def test_a_baked_batch_fails_with_the_runtime_s_own_words(size: int, source: Source) -> None:
    """Two exports that run at one batch size only: the graph refuses others, or the input's declared shape does."""

    def graph(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(images) != size:
            raise RuntimeError("Reshape: cannot reshape\n  at some place")
        return run(images)

    def shape(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return run(check_images(images, (size, 3, 64, 64)))

    for spoil, words in ((graph, "Reshape: cannot reshape"), (shape, "takes images of shape")):
        report = check(_fake(source, spoil), source, Gate(drop=1.0), dense=False)
        assert report.verdict is Verdict.FAIL
        assert "it cannot run a batch of" in report.reason
        assert words in report.reason
        assert report.largest_difference is None


def test_classes_in_another_order_are_no_fault_if_the_logits_follow(source: Source) -> None:
    order = [3, 1, 0, 2, 6, 5, 4]
    classes = tuple(CLASSES[i] for i in order)
    artifact = _fake(source, lambda run, x: run(x)[:, order], model=replace(source.adaptive.card, classes=classes))
    assert check(artifact, source, Gate(), dense=False).verdict is Verdict.PASS


def test_a_near_tie_is_no_fault(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(run: Run, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = run(images)
        strayed = np.isclose(images.reshape(len(images), -1)[:, :50].sum(1), marked)
        return np.asarray(np.where(strayed[:, None], logits + 0.5, logits))

    marked = float(source.at([12])[0].reshape(-1)[:50].sum())
    artifact = _fake(source, spoil)
    assert check(artifact, source, Gate(), dense=False).verdict is Verdict.FAIL
    monkeypatch.setattr("tavt_kit.checks.near_ties.margins", lambda *_: np.array([1e-8]))
    report = check(artifact, source, Gate(), dense=False)
    assert (report.verdict, report.strayed, report.tied) == (Verdict.PASS, 1, 1)


def test_int8_is_judged_by_its_accuracy(source: Source) -> None:
    artifact = _int8(_fake(source, lambda run, x: run(x) * np.float32(1.02)))
    report = check(artifact, source, Gate(), dense=False)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.images_to_decide is not None
    assert report.images_to_decide > 600
    assert check(artifact, source, Gate(drop=0.5), dense=False).verdict is Verdict.PASS


def test_an_unreadable_image_is_refused(adaptive: AdaptiveViT, samples: list[Sample], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[0].path.read_bytes()[:300])
    mixed = [*samples[:3], Sample(broken, 2), *samples[3:9]]
    with pytest.raises(DataError, match="1 of 10 images cannot be read"):
        Source(adaptive, mixed, "test").logits(SCHEDULE)


def test_another_model_s_artifact_is_refused(source: Source) -> None:
    with pytest.raises(DataError, match="must have the same classes"):
        check(_fake(source, model=replace(source.adaptive.card, classes=tuple("abcdefx"))), source, Gate())
    with pytest.raises(ScheduleError, match="the model has 4 layers"):
        check(_fake(source, schedule=TokenSchedule((9, 9))), source, Gate())
    other = _fake(source, model=replace(source.adaptive.card, weights_sha256="cd"))
    assert not check(other, source, Gate(), dense=False).same_weights
