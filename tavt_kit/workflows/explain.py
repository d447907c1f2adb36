"""explain: what a model looks at, drawn over images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.lock import held_folder
from tavt_kit.core.parsing import bounded
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_path, command_line, sha256_file, write_record
from tavt_kit.errors import DataError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import Given, files_below, model_at

if TYPE_CHECKING:
    from tavt_kit.core.configuration import Choice


@dataclass(frozen=True, slots=True)
class ExplainedImage:
    """One image, drawn as the PNG ``file`` with its likeliest class as caption; or why it could not be read."""

    path: Path
    file: Path | None = None
    caption: str = ""
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.error or f'{self.caption}; {self.file}'}"


@dataclass(frozen=True, slots=True, repr=False)
class ExplainResult:
    """What was drawn, and how many images were ``left_out`` by the limit; no record where no image could be read."""

    folder: Path
    images: tuple[ExplainedImage, ...]
    left_out: int
    record: Mapping[str, Any] | None = field(hash=False)

    @property
    def drawn(self) -> int:
        """Images that were drawn."""
        return sum(image.error is None for image in self.images)

    @property
    def unreadable(self) -> int:
        """Images that could not be read."""
        return len(self.images) - self.drawn

    def to_frame(self) -> Frame:
        """A line for each drawn image: image, file, prediction, probability and class."""
        entries = [] if self.record is None else self.record["images"]
        keys = ("image", "file", "prediction", "probability", "class")
        return frame([{key: entry[key] for key in keys} for entry in entries])

    def __repr__(self) -> str:
        return f"<ExplainResult {self.folder}: {self.drawn} images, {self.unreadable} unreadable>"


@bounded
def explain(
    run: Given,
    images: Path | str | Sequence[Path | str],
    out: Path | str = "explained",
    *,
    schedule: str | Choice | None = None,
    pick: str | None = None,
    limit: int = 64,
    progress: Progress | None = None,
) -> ExplainResult:
    """Draw what a model looks at: attention rollout, the patches each layer keeps, and what its family chooses.

    Mix-ViT's hybrid: its parts; PIM: how probable the likeliest class is at every place. One PNG an image, and
    ``explained.json`` with the numbers, which a report shows.

    Args:
        run: A run folder, or a wrapped model with its card.
        images: Images, or folders of them.
        out: The folder to write.
        schedule: A schedule such as ``taper:0.2``; by default what a search in the folder chose, else the model's own.
        pick: Candidate of a search's front or row of a fit's table instead, as ``evaluate`` takes it.
        limit: Most images.
        progress: Shown each ``ExplainedImage`` as soon as it is drawn; told which schedule a search's folder made it.

    Raises:
        DataError: A folder holds no images.
        ScheduleError: The schedule does not fit the model.
        OutputError: ``out`` cannot be written.

    Example:
        >>> explain("runs/birds", "birds/sparrow", "explained", limit=8)  # doctest: +SKIP
        <ExplainResult explained: 8 images, 0 unreadable>
    """
    import numpy as np
    import torch
    from PIL import Image

    from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
    from tavt_kit.evaluation.looking import draw_explained
    from tavt_kit.evaluation.looking import explain as look_through

    progress, folder = progress or Silent(), Path(out)
    files = files_below(images)
    model, under = model_at(run, schedule, progress, pick)
    card = model.require_card()
    preprocessing = Preprocessing.from_record(card.preprocessing)
    entries: list[dict[str, Any]] = []
    seen: list[ExplainedImage] = []
    with held_folder(folder):
        for path in files[:limit]:
            try:
                pixels = resize_crop(open_image(path), preprocessing)
            except DataError as error:
                seen.append(ExplainedImage(path, error=str(error)))
                progress.show(seen[-1])
                continue
            explained = look_through(model, torch.from_numpy(normalise(pixels, preprocessing)), classes=card.classes)
            best = int(explained.probabilities.argmax())
            caption = f"{card.classes[best]} {100 * explained.probabilities[best]:.0f} %"
            file = folder / f"{len(entries):03d}-{path.stem}.png"
            with atomic_path(file) as temporary:
                image = Image.fromarray(pixels.transpose(1, 2, 0).copy())
                draw_explained(image, explained, caption).save(temporary)
            entries.append({
                "image": str(path), "file": file.name, "sha256": sha256_file(file), "shows": list(explained.titles),
                "prediction": card.classes[best], "probability": round(float(explained.probabilities[best]), 6),
                "class": card.classes[explained.label], "grid": list(explained.grid),
                "maps": {heat.name: np.round(heat.values.astype(float), 6).tolist() for heat in explained.heats},
                "kept": {mark.name: list(mark.patches) for mark in explained.kept},
            })  # fmt: skip
            seen.append(ExplainedImage(path, file, caption))
            progress.show(seen[-1])
        left_out = max(0, len(files) - limit)
        if not entries:
            return ExplainResult(folder, tuple(seen), left_out, None)
        body = {
            "run": os.fspath(run) if isinstance(run, str | os.PathLike) else str(run.folder or ""),
            "model": card.name, "weights_sha256": card.weights_sha256, "schedule": str(under), "images": entries,
            "unreadable": len(seen) - len(entries), "command": command_line(),
        }  # fmt: skip
        record = write_record(folder / "explained.json", "explained", body)
        return ExplainResult(folder, tuple(seen), left_out, record)
