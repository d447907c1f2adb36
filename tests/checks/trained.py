"""A small ViT trained on generated images until it is right, and its sound artifacts: what faults are put into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image

from tavt_kit.checkpoints import load_model, save_model
from tavt_kit.checks import Source
from tavt_kit.core.artifact_card import ArtifactCard, read_metadata
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, load_arrays, load_images
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.exporters.to_onnx import attach_card
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tavt_kit.runtimes.on_openvino import openvino_core

CLASSES = ("amber bar", "amber dot", "azure bar", "azure dot", "green ring", "violet ring")
SIZE, EACH, STEPS = 32, 60, 160
SCHEDULE = TokenSchedule((14, 11, 8, 8))
SEEN = ("mean", "std", "crop_pct", "crop_mode", "interpolation")
_COLOURS = ((225, 160, 40), (225, 160, 40), (40, 120, 225), (40, 120, 225), (50, 190, 80), (160, 70, 210))


def write_images(folder: Path, each: int = EACH) -> Path:
    """One folder per class: a coloured shape near the edge of a dark, grainy image, larger than the model's input."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :44]
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 100, (40, 44, 3))
            y, x = rng.integers(9, 31), rng.integers(9, 35)
            far = (rows - y) ** 2 + (columns - x) ** 2
            shape = (abs(rows - y) < 3, far < 49, (far < 81) & (far > 25))[(0, 1, 0, 1, 2, 2)[label]]
            pixels[shape] = np.array(_COLOURS[label]) + rng.integers(-25, 26, (int(shape.sum()), 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def train(folder: Path, images: ImageSet) -> AdaptiveViT:
    """Train at the schedule that is exported, and save it as a run; a few seconds."""
    torch.manual_seed(0)
    sizes = {"img_size": [SIZE, SIZE], "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(CLASSES), **sizes)
    how = Preprocessing((SIZE, SIZE), 0.9, "center", "bicubic", (0.25, 0.22, 0.2), (0.22, 0.2, 0.24))
    arrays = load_arrays(images.split("train"), how)
    images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)
    adaptive = wrap(model)
    adaptive.schedule = SCHEDULE
    optimiser = torch.optim.AdamW(adaptive.parameters(), 2e-3, weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(labels), (48,))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(adaptive(images[batch]), labels[batch]).backward()
        optimiser.step()
        rates.step()
    card = ModelCard("timm_vit", "vit_tiny_patch16_224", sizes, CLASSES, how.as_record())
    save_model(folder, adaptive.unwrap().eval(), card)
    return load_model(folder)


class Subject:
    """The trained model with its images, and where its artifacts lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = load_images(str(write_images(folder / "data")))
        self.adaptive = train(folder / "run", self.images)
        self._source: Source | None = None

    @property
    def card(self) -> ArtifactCard:
        adaptive = self.adaptive
        return ArtifactCard(adaptive.card, SCHEDULE, adaptive.tokens, adaptive.prefix)

    def source(self, *, seed: int | None = None, n: int = 40) -> Source:
        """The model with its test images; with a seed only some of them, in another order."""
        if seed is None:
            if self._source is None or self._source.adaptive is not self.adaptive:
                self._source = Source(self.adaptive, self.images.split("test"), "test")
            return self._source  # whose answers are made once
        samples = self.images.split("test")
        chosen = np.random.default_rng(seed).permutation(len(samples))[:n]
        samples = tuple(samples[i] for i in chosen)
        return Source(self.adaptive, samples, "test")

    def calibration(self, n: int = 60) -> np.ndarray:
        samples = self.images.split("train")[:: max(1, len(self.images.split("train")) // n)]
        return load_arrays(samples, Preprocessing.from_record(self.card.preprocessing)).images

    def with_card(self, file: Path, out: Path, **changes: object) -> Path:
        """The file with another card; of the model's own fields by their names."""
        card = read_metadata(file)
        model = {name: changes.pop(name) for name in ("classes", "weights_sha256") if name in changes}
        seen = {name: changes.pop(name) for name in SEEN if name in changes}
        card = replace(
            card, model=replace(card.model, preprocessing={**card.preprocessing, **seen}, **model), **changes
        )
        return put_card(file, out, card)


def put_card(file: Path, out: Path, card: ArtifactCard) -> Path:
    """Write the graph of a file, with this card, to another one of its kind."""
    if file.suffix == ".onnx":
        model = onnx.load(str(file))
        attach_card(model, card)
        onnx.save(model, str(out))
        return out
    import openvino

    from tavt_kit.core.artifact_card import METADATA_KEY

    graph = openvino_core().read_model(file)
    graph.set_rt_info(card.as_text(), METADATA_KEY)
    openvino.save_model(graph, out, compress_to_fp16=False)
    return out
