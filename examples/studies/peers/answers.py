"""Which test images each network has right, and its multiply-adds; kept, so that nothing is answered twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from peers.plan import Row
from peers.training import Workshop
from tavt_kit.checkpoints import load_model
from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Silent
from tavt_kit.core.records import SCHEMAS, make_folder, read_record, write_record
from tavt_kit.data import load_arrays, load_bytes, thin_out
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.exporters.options import Int8Options
from tavt_kit.exporters.quantize import Examples, make_int8
from tavt_kit.exporters.to_openvino import convert, save
from tavt_kit.models.costs import count_pass
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import Session, open_file

SCHEMAS["peer-answer"] = 1
BATCH, CALIBRATION = 64, 100


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of a row.

    Args:
        macs: Multiply-adds of one image, counted in the float network.
        right: (n,) of the test images.
    """

    macs: int
    right: NDArray[np.bool_]


@dataclass
class Answers:
    """Loads, answers and keeps.

    Args:
        shop: Where the networks are.
        tell: Says what is being done.
    """

    shop: Workshop
    tell: Any
    _pixels: dict[Preprocessing, tuple[NDArray[np.uint8], NDArray[np.int64]]] = field(default_factory=dict)

    def of(self, row: Row) -> Known:
        """From its record, or by answering all test images."""
        file = make_folder(self.shop.out / "answers") / f"{row.slug}.json"
        if not file.exists():
            self.tell(f"answering: {row.name}")
            model = self.load(row)
            module = row.make(model).eval()
            height, width = self.preprocessing(model).image_size
            with torch.inference_mode():
                macs = count_pass(module, torch.zeros(1, 3, height, width))
            right = self._right(row, model, module)
            bits = "".join("1" if one else "0" for one in right)
            write_record(file, "peer-answer", {"name": row.name, "split": "test", "macs": macs, "right": bits})
        body = read_record(file, "peer-answer")
        return Known(int(body["macs"]), np.array([bit == "1" for bit in body["right"]]))

    def load(self, row: Row) -> AdaptiveViT:
        """Its weights, in eval mode."""
        model = load_model(self.shop.out / row.run)
        model.eval()
        return model

    def preprocessing(self, model: AdaptiveViT) -> Preprocessing:
        """The run's own."""
        card = model.card
        assert isinstance(card, ModelCard)  # what load_model gives
        return Preprocessing.from_record(card.preprocessing)

    def image(self, model: AdaptiveViT) -> NDArray[np.float32]:
        """(1, 3, H, W): the first test image, to be timed on."""
        pixels, _ = self._test(self.preprocessing(model))
        return normalise(pixels[:1], self.preprocessing(model))

    def _test(self, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if preprocessing not in self._pixels:
            samples = thin_out(self.shop.images.split("test"), self.shop.limit)
            pixels, labels = load_bytes(samples, preprocessing)
            self._pixels[preprocessing] = pixels, labels
        return self._pixels[preprocessing]

    def _right(self, row: Row, model: AdaptiveViT, module: nn.Module) -> NDArray[np.bool_]:
        preprocessing = self.preprocessing(model)
        pixels, labels = self._test(preprocessing)
        session = self.session(row, model) if row.int8 else None
        found = []
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.shop.seed)  # random drop draws
            for start in range(0, len(labels), BATCH):
                images = normalise(pixels[start : start + BATCH], preprocessing)
                logits = module(torch.from_numpy(images)).numpy() if session is None else session(images)
                found.append(logits.argmax(axis=1))
        right: NDArray[np.bool_] = np.concatenate(found) == labels
        return right

    def session(self, row: Row, model: AdaptiveViT, threads: int | None = None) -> Session:
        """The INT8 file on OpenVINO, made where it is not there: calibrated on training images."""
        file = make_folder(self.shop.out / "int8") / f"{row.slug}.xml"
        if not file.exists():
            self.tell(f"quantizing: {row.name}")
            self._write(row, model, file)
        return open_file(file, TargetDevice("openvino", "cpu", threads=threads, precision="f32"))

    def _write(self, row: Row, model: AdaptiveViT, file: Path) -> None:
        source = model.card
        assert isinstance(source, ModelCard)
        schedule = row.schedule or model.dense_schedule
        card = ArtifactCard(source, schedule, model.tokens, model.prefix)
        read = load_arrays(self.shop.images.split("train"), self.preprocessing(model), limit=2 * CALIBRATION)
        some, held = read.images[::2], read.images[1::2]
        how = Int8Options(quantizer="nncf", smooth="on")
        made, record = make_int8(convert(model, card), card, Examples(some, held, read.labels[1::2]), how, Silent())
        save(made, card.quantized(record), file)
