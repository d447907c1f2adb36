"""Fault injection: each deliberate fault in a real artifact of a trained model is caught, and sound ones pass.

Caught means FAIL or refused; INCONCLUSIVE is not caught.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.checks import Artifact, CheckReport, Gate, check
from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.budget import Verdict
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TavtError
from tavt_kit.exporters.quantize import feeds, quantize
from tavt_kit.exporters.to_onnx import attach_card, to_onnx
from tavt_kit.exporters.to_openvino import convert, save, to_openvino
from tavt_kit.models.wrap import AdaptiveViT, LeanViT, SwitchableViT, wrap
from tavt_kit.runtimes.available import check_available
from tavt_kit.runtimes.on_openvino import openvino_core
from tests.checks.trained import CLASSES, SCHEDULE, Subject, put_card

KINDS = (".onnx", ".xml")
Fault = Callable[[Subject, Path, str], Path]
"""(subject, folder, kind) -> the faulty file."""


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def sound_onnx(subject: Subject) -> Path:
    return _export(subject.adaptive, subject.card, subject.folder / "sound.onnx")


@pytest.fixture(scope="session")
def sound_openvino(subject: Subject) -> Path:
    return _export(subject.adaptive, subject.card, subject.folder / "sound.xml")


@pytest.fixture(scope="session")
def sound_int8(subject: Subject) -> Path:
    return _int8(subject, subject.folder / "sound8.xml", subject.calibration())


def _export(adaptive: AdaptiveViT, card: Any, file: Path) -> Path:
    (to_onnx if file.suffix == ".onnx" else to_openvino)(adaptive, card, file)
    return file


def _int8(subject: Subject, file: Path, images: np.ndarray, **changes: Any) -> Path:
    """Quantized with these images; the card says that they are training images."""
    card = subject.card.quantized({"split": "train", "images": len(images), **changes})
    if file.suffix == ".onnx":
        to_onnx(subject.adaptive, card, file)
        model = quantize(onnx.load(str(file)), feeds(images))
        attach_card(model, card)
        onnx.save(model, str(file))
    else:
        save(quantize(convert(subject.adaptive, card), feeds(images)), card, file)
    return file


def _sound(subject: Subject, kind: str) -> Path:
    file = subject.folder / f"sound{kind}"
    return file if file.exists() else _export(subject.adaptive, subject.card, file)


def _verdict(file: Path, subject: Subject, target: str | None = None) -> CheckReport:
    artifact = Artifact.open(file, None if target is None else TargetDevice.parse(target))
    return check(artifact, subject.source(), Gate(), dense=False)


def _caught(file: Path, subject: Subject, target: str | None = None) -> str:
    """Why a file is not shipped; empty where it would be."""
    try:
        report = _verdict(file, subject, target)
    except TavtError as error:
        return str(error)
    return report.reason if report.verdict is Verdict.FAIL else ""


# ------------------------------------------------------------------------------------------------- the faults


def _card(**changes: Any) -> Fault:
    """The sound graph under a false card."""
    return lambda subject, folder, kind: subject.with_card(_sound(subject, kind), folder / f"m{kind}", **changes)


def _permuted(subject: Subject, folder: Path, kind: str) -> Path:
    return subject.with_card(_sound(subject, kind), folder / f"m{kind}", classes=(*CLASSES[1:], CLASSES[0]))


def _spoilt_model(spoil: Callable[[AdaptiveViT], None]) -> Fault:
    """Another model exported under the sound card."""

    def make(subject: Subject, folder: Path, kind: str) -> Path:
        adaptive = load_model(subject.folder / "run")
        with torch.no_grad():
            spoil(adaptive)
        return _export(adaptive, subject.card, folder / f"m{kind}")

    return make


def _swap_channels(adaptive: AdaptiveViT) -> None:
    weight = adaptive.bare.patch_embed.proj.weight  # type: ignore[union-attr]
    weight.copy_(weight.flip(1))  # type: ignore[operator, union-attr]


def _drop_norm(adaptive: AdaptiveViT) -> None:
    adaptive.bare.blocks[2].norm2 = torch.nn.Identity()  # type: ignore[index, union-attr]


def _drop_positions(adaptive: AdaptiveViT) -> None:
    adaptive.bare.pos_embed.zero_()  # type: ignore[operator, union-attr]


def _stale(adaptive: AdaptiveViT) -> None:
    """As after one more epoch."""
    generator = torch.Generator().manual_seed(1)
    for weight in adaptive.parameters():
        weight.add_(0.02 * weight.std() * torch.randn(weight.shape, generator=generator))


def _other_weights(subject: Subject, folder: Path, kind: str) -> Path:
    """Made from weights that were replaced since, which its card says."""
    return subject.with_card(_sound(subject, kind), folder / f"m{kind}", weights_sha256="0" * 64)


def _one_token_more(subject: Subject, folder: Path, kind: str) -> Path:
    other = replace(subject.card, schedule=TokenSchedule((14, 11, 9, 9)))
    return put_card(_export(subject.adaptive, other, folder / f"other{kind}"), folder / f"m{kind}", subject.card)


def _one_token_more_int8(subject: Subject, folder: Path, kind: str) -> Path:
    file = folder / f"other{kind}"
    card = replace(subject.card, schedule=TokenSchedule((14, 11, 9, 9)))
    if kind == ".xml":
        save(quantize(convert(subject.adaptive, card), feeds(subject.calibration())), card, file)
    else:
        to_onnx(subject.adaptive, card, file)
        onnx.save(quantize(onnx.load(str(file)), feeds(subject.calibration())), str(file))
    return put_card(file, folder / f"m{kind}", subject.card.quantized({"split": "train", "images": 60}))


def _traced(module: torch.nn.Module, batch: int, subject: Subject, file: Path, **more: Any) -> Path:
    """An .onnx file that nobody compared with torch."""
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "opset_version": 17}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of constants in the trace
        torch.onnx.export(module, (torch.rand(batch, 3, 32, 32),), str(file), dynamo=False, **names, **more)
    return put_card(file, file, subject.card)


def _baked(batch: int) -> Fault:
    def make(subject: Subject, folder: Path, kind: str) -> Path:
        file = folder / f"m{kind}"
        if kind == ".xml":
            model = convert(subject.adaptive, subject.card)
            model.reshape({0: [batch, 3, 32, 32]})
            save(model, subject.card, file)
            return file
        lean = LeanViT(subject.adaptive, SCHEDULE, selection="topk").eval()
        return _traced(lean, batch, subject, file)

    return make


def _copied(subject: Subject, folder: Path, kind: str) -> tuple[Path, Path]:
    """A copy of a sound file, and the file of its weights, which may be the same."""
    file = folder / f"m{kind}"
    shutil.copyfile(_sound(subject, kind), file)
    if kind != ".xml":
        return file, file
    weights = file.with_suffix(".bin")
    shutil.copyfile(_sound(subject, kind).with_suffix(".bin"), weights)
    return file, weights


def _cut(subject: Subject, folder: Path, kind: str) -> Path:
    file, weights = _copied(subject, folder, kind)
    weights.write_bytes(weights.read_bytes()[:-5000])
    return file


def _lost_weight(subject: Subject, folder: Path, kind: str) -> Path:
    """A file as long as it should be, with a block of zeros in the middle, as a failed copy leaves it."""
    file, weights = _copied(subject, folder, kind)
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    weights.write_bytes(raw)
    return file


def _never_calibrated(subject: Subject, folder: Path, kind: str) -> Path:
    """Ranges taken from black images; the card says nothing of them."""
    black = np.zeros_like(subject.calibration())
    file = _int8(subject, folder / f"q{kind}", black)
    return put_card(file, folder / f"m{kind}", replace(subject.card, precision="int8"))


def _calibrated_on_black(subject: Subject, folder: Path, kind: str) -> Path:
    """The same, with a card that says otherwise: only its accuracy tells."""
    return _int8(subject, folder / f"m{kind}", np.zeros_like(subject.calibration()))


def _calibrated_on_test(subject: Subject, folder: Path, kind: str) -> Path:
    return _int8(subject, folder / f"m{kind}", subject.calibration(), split="test")


def _int8_as_f32(subject: Subject, folder: Path, kind: str) -> Path:
    file = _int8(subject, folder / f"q{kind}", subject.calibration())
    return put_card(file, folder / f"m{kind}", subject.card)


def _f32_as_int8(subject: Subject, folder: Path, kind: str) -> Path:
    card = subject.card.quantized({"split": "train", "images": 60})
    return put_card(_sound(subject, kind), folder / f"m{kind}", card)


def _other_end(end: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """A graph that does something to its logits."""

    class Ended(LeanViT):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return end(super().forward(images))

    def make(subject: Subject, folder: Path, kind: str) -> Path:
        file = folder / f"m{kind}"
        if kind == ".onnx":
            lean = Ended(subject.adaptive, SCHEDULE, selection="topk").eval()
            return _traced(lean, 2, subject, file, dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}})
        from tavt_kit.runtimes.on_openvino import convert_module

        model = convert_module(Ended(subject.adaptive, SCHEDULE).eval(), (torch.rand(2, 3, 32, 32),), [(-1, 3, 32, 32)])
        save(model, subject.card, file)
        return file

    return make


def _rows(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of each image in its batch, and the images of the batch, both followed by a trace."""
    ones = torch.ones_like(logits[:, :1])
    return ones.cumsum(0) - 1, ones.sum()


def _where_row(which: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], value: float) -> Fault:
    """A value in place of the logits of some rows of some batches."""
    return _other_end(lambda logits: torch.where(which(*_rows(logits)), torch.full_like(logits, value), logits))


def _at(size: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """Wrong, but finite, in batches of one size alone."""
    return _other_end(lambda logits: torch.where(_rows(logits)[1] == size, change(logits), logits))


def _rolled(logits: torch.Tensor) -> torch.Tensor:
    """Each image gets the answer of the one before it."""
    return torch.roll(logits, 1, 0)


def _from(size: int) -> Fault:
    """Rolled in batches of this size and larger ones, which is compared with the number before it."""
    return _other_end(lambda logits: torch.where(_rows(logits)[1] > size - 1, _rolled(logits), logits))


def _at_some_size(logits: torch.Tensor) -> torch.Tensor:
    """Rolled at a size that stands nowhere in the graph: 2 n = n + 6."""
    n = _rows(logits)[1]
    return torch.where(2 * n - n == 6 * (n / n), _rolled(logits), logits)


def _neighbours(logits: torch.Tensor) -> torch.Tensor:
    """The fourth image of a batch gets the answer of the third."""
    row, _ = _rows(logits)
    return torch.where(row == 3, torch.roll(logits, 1, 0), logits)


def _swap_head_rows(adaptive: AdaptiveViT) -> None:
    head = adaptive.bare.head
    for values in (head.weight, head.bias):  # type: ignore[union-attr]
        values[:2] = values[:2].flip(0)  # type: ignore[index, operator]


def _skip_layer(adaptive: AdaptiveViT) -> None:
    for name, values in adaptive.bare.blocks[3].named_parameters():  # type: ignore[index, union-attr]
        if "proj" in name or "fc2" in name:
            values.zero_()


def _third_at_three(subject: Subject, folder: Path, kind: str) -> Path:
    """In 8 bits, where an image may stray now and then: one row of a batch of three is wrong."""
    file = _at(3, lambda logits: torch.where(_rows(logits)[0] == 2, _rolled(logits), logits))(subject, folder, kind)
    card = subject.card.quantized({"split": "train", "images": 60})
    images = feeds(subject.calibration())
    if kind == ".xml":
        save(quantize(openvino_core().read_model(file), images), card, folder / "q.xml")
        return folder / "q.xml"
    onnx.save(quantize(onnx.load(str(file)), images), str(file))
    return put_card(file, file, card)


def _half(adaptive: AdaptiveViT) -> None:
    """Weights rounded to 8 bits of a mantissa, as bf16 has them."""
    for values in adaptive.parameters():
        values.copy_(values.to(torch.bfloat16).float())


def _other_score(subject: Subject, folder: Path, kind: str) -> Path:
    """Tokens ranked by the class token's attention, where the card says by all."""
    return _export(wrap(subject.adaptive.bare, "cls"), subject.card, folder / f"m{kind}")


FAULTS: dict[str, Fault] = {
    "wrong mean": _card(mean=[0.5, 0.5, 0.5]),
    "wrong deviation": _card(std=[0.5, 0.5, 0.5]),
    "wrong crop": _card(crop_pct=1.0),
    "wrong resize": _card(crop_mode="squash"),
    "wrong interpolation": _card(interpolation="nearest"),
    "permuted classes": _permuted,
    "another schedule in the card": _card(schedule=TokenSchedule((14, 11, 9, 9))),
    "stale weights, as the card says": _other_weights,
    "truncated file": _cut,
    "f32 under a card that says int8": _f32_as_int8,
    "swapped channels": _spoilt_model(_swap_channels),
    "dropped normalisation layer": _spoilt_model(_drop_norm),
    "dropped position embedding": _spoilt_model(_drop_positions),
    "stale weights under the new card": _spoilt_model(_stale),
    "one kept token more": _one_token_more,
    "one kept token more, in int8": _one_token_more_int8,
    "tokens ranked by another score": _other_score,
    "a batch of 1 baked in": _baked(1),
    "a batch of 8 baked in": _baked(8),
    "zeros in the file": _lost_weight,
    "probabilities for logits": _other_end(lambda logits: logits.softmax(-1)),
    "answers to two images of a batch": _other_end(lambda logits: logits[:2]),
    "NaN from the fourth row on, but at the batch of the main pass": _where_row(
        lambda row, n: (row >= 3) & (n != 8), float("nan")
    ),
    "infinite in one row": _where_row(lambda row, n: (row == 2) & (n > 4), float("inf")),
    "answers of a batch of five rolled by one": _at(5, _rolled),
    "answers of a batch of three rolled by one": _at(3, _rolled),
    "one image of a batch of 16 gets its neighbour's answer": _at(16, _neighbours),
    "answers of a batch of 29 rolled by one": _at(29, _rolled),
    "answers of batches of 41 and more rolled by one": _from(41),
    "answers of a batch of six rolled by one, which the graph does not name": _other_end(_at_some_size),
    "one image of a batch of five gets its neighbour's answer": _at(5, _neighbours),
    "one class of a batch of five a little off": _at(5, lambda logits: logits * 1.02),
    "logits a hundredth too large": _other_end(lambda logits: logits * 1.01),
    "logits in another order than the classes": _other_end(lambda logits: logits.flip(1)),
    "two classes of the head swapped": _spoilt_model(_swap_head_rows),
    "a layer that does nothing": _spoilt_model(_skip_layer),
    "weights rounded to bf16 under a card that says f32": _spoilt_model(_half),
    "int8 with one row of a batch of three rolled": _third_at_three,
    "int8 without calibration": _never_calibrated,
    "int8 calibrated on black images": _calibrated_on_black,
    "int8 calibrated on the images that check it": _calibrated_on_test,
    "int8 under a card that says f32": _int8_as_f32,
}
QUICK = {
    "wrong mean",
    "wrong interpolation",
    "permuted classes",
    "stale weights, as the card says",
    "truncated file",
    "wrong resize",
    "NaN from the fourth row on, but at the batch of the main pass",
    "one image of a batch of five gets its neighbour's answer",
    "answers of a batch of three rolled by one",
    "one image of a batch of 16 gets its neighbour's answer",
    "answers of a batch of 29 rolled by one",
    "two classes of the head swapped",
}


def _cases() -> Iterator[Any]:
    for name in FAULTS:
        for kind in KINDS:
            quick = name in QUICK and kind == ".onnx"
            yield pytest.param(name, kind, id=f"{name}{kind}", marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("fault", "kind"), list(_cases()))
def test_a_fault_is_caught(fault: str, kind: str, subject: Subject, tmp_path: Path) -> None:
    file = FAULTS[fault](subject, tmp_path, kind)
    assert _caught(file, subject)


# ------------------------------------------------------------------------------- of a merged and of a switchable file


def _merged(subject: Subject) -> Subject:
    """The same model, of which tokens merge."""
    other = copy.copy(subject)
    other.adaptive = wrap(subject.adaptive.bare, reduction="merge")
    other.adaptive.card = replace(subject.adaptive.require_card(), reduction="merge")
    return other


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["", "sizes forgotten", "sizes squared", "dropped instead"])
def test_a_merge_of_wrong_sizes_is_caught(
    fault: str, kind: str, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, file = _merged(subject), tmp_path / f"m{kind}"
    if fault == "dropped instead":
        put_card(_sound(subject, kind), file, other.card)
    else:
        power = {"": 1, "sizes forgotten": 0, "sizes squared": 2}[fault]

        def spoilt(bias: Any, sizes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            weights = power * sizes.log()[:, None, None, :].to(dtype)
            return weights if bias is None else bias + weights

        with monkeypatch.context() as patch:
            for module in ("base", "timm_vit"):
                patch.setattr(f"tavt_kit.models.backbones.{module}.add_size_bias", spoilt)
            _export(other.adaptive, other.card, file)
    assert bool(_caught(file, other)) == bool(fault)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [None, 11, 12])
def test_one_count_of_a_switchable_file_that_is_wrong_is_caught(
    wrong: int | None, kind: str, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoilt(SwitchableViT):
        def forward(self, images: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            if wrong is not None:
                lengths = torch.where(lengths == wrong, lengths + 1, lengths)
            return super().forward(images, lengths)  # type: ignore[no-any-return]

    presets = {"strong": SCHEDULE, "mild": TokenSchedule((16, 14, 12, 12)), "dense": TokenSchedule((17,) * 4)}
    card = replace(subject.card, presets=presets)
    with monkeypatch.context() as patch:
        patch.setattr("tavt_kit.exporters.to_onnx.SwitchableViT", Spoilt)  # what both formats are traced from
        file = _export(subject.adaptive, card, tmp_path / f"m{kind}")
    artifacts, source = Artifact.open(file).at_presets(), subject.source()
    found = [check(one, source, Gate(), dense=False).verdict for one in artifacts]
    strays = [wrong in one.card.schedule.counts for one in artifacts]
    assert found == [Verdict.FAIL if stray else Verdict.PASS for stray in strays] and len(found) == 3


def test_the_model_is_right(subject: Subject) -> None:
    """Far above chance, which is 17 %: else a broken artifact would be as good."""
    source = subject.source()
    right = (source.logits(SCHEDULE).argmax(1) == source.labels).mean()
    assert len(source.labels) == 72
    assert right > 0.9


@contextmanager
def _hinted(monkeypatch: pytest.MonkeyPatch, precision: str) -> Iterator[None]:
    """OpenVINO told to compute in another precision than we ask it for."""
    import openvino

    compile_model = openvino.Core.compile_model

    def told(self: Any, model: Any, device: str, settings: dict[str, str]) -> Any:
        return compile_model(self, model, device, {**settings, "INFERENCE_PRECISION_HINT": precision})

    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", told)
        yield


@pytest.mark.slow
def test_a_precision_that_nobody_asked_for_is_refused(
    subject: Subject, sound_openvino: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tavt_kit.errors import TargetError

    try:
        check_available(TargetDevice("openvino", "cpu", precision="bf16"))
    except TargetError:
        pytest.skip("this CPU has no bf16")
    with _hinted(monkeypatch, "bf16"), pytest.raises(TargetError, match="OpenVINO ran bf16 where f32 was asked for"):
        _verdict(sound_openvino, subject)


@pytest.mark.slow
def test_weights_rounded_to_half_are_no_f32(subject: Subject, tmp_path: Path) -> None:
    import openvino

    file = tmp_path / "m.xml"
    model = convert(subject.adaptive, subject.card)
    model.set_rt_info(subject.card.as_text(), "fgvc_kit")
    openvino.save_model(model, file, compress_to_fp16=True)
    assert "f16" in _caught(file, subject)


# --------------------------------------------------------------------------------------------- what is sound passes


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_a_sound_f32_artifact_passes_whatever_the_images(seed: int, subject: Subject, sound_onnx: Path) -> None:
    report = check(Artifact.open(sound_onnx), subject.source(seed=seed, n=9 + seed), Gate(), dense=False)
    assert report.verdict is Verdict.PASS, report.reason
    assert report.token_choice is not None
    assert report.token_choice.kept == (13, 10, 7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_so_does_openvino_s(seed: int, subject: Subject, sound_openvino: Path) -> None:
    report = check(Artifact.open(sound_openvino), subject.source(seed=seed), Gate(), dense=False)
    assert report.verdict is Verdict.PASS, report.reason


@pytest.mark.slow
def test_a_sound_int8_artifact_does_not_fail(subject: Subject, sound_int8: Path) -> None:
    report = _verdict(sound_int8, subject)
    assert report.verdict is not Verdict.FAIL, report.reason
    assert report.agreement > 0.9
    assert read_metadata(sound_int8).precision == "int8"
