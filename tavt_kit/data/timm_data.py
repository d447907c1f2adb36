"""What ``timm.data`` reads: class folders in natural order, and torchvision's small sets, by ``timm:PLACE``.

timm numbers classes in natural order ("2" before "10") where this kit and torchvision sort plainly; whoever has weights
trained through timm's folders (ViTAE's, for one) needs its order.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tavt_kit.core.parsing import user_path
from tavt_kit.core.records import sha256_text
from tavt_kit.data.images import ImageSet, Sample, split_name
from tavt_kit.data.packages import cache_folder, lay_out
from tavt_kit.data.splits import carve
from tavt_kit.errors import DataError, first_line
from tavt_kit.models.timm_import import timm

_TORCH = ("fashion_mnist", "kmnist", "mnist")
"""torchvision's sets that timm knows and that are read without unpickling anything."""

_Part = tuple[tuple[str, ...], list[Sample]]


def load_timm(name: str, spec: str, *, seed: int = 0) -> ImageSet:
    """Read data as timm does, with our own val split where none is given; the set is called by the ``spec``.

    The name is that of a folder of class folders, or of a folder with one for each split (``train``, ``val``,
    ``test``); or ``torch/fashion_mnist:FOLDER`` and its like.

    Raises:
        DataError: The place is missing or damaged, or of a kind that is not read.
    """
    if name.lower().startswith("torch/"):
        parts, root = _torch_parts(name)
    else:
        root = user_path(name).absolute()
        if not root.is_dir():
            raise DataError(f"{root} is no folder; give timm:PLACE with a folder of class folders")
        given = {part: child for child in sorted(root.iterdir()) if (part := split_name(child.name)) is not None}
        folders = given if "train" in given else {"train": root}
        parts = {part: _read_folder(folder) for part, folder in folders.items()}
        root = root if len(folders) > 1 else next(iter(folders.values()))
    classes = parts["train"][0] if "train" in parts else next(iter(parts.values()))[0]
    splits = {}
    for part, (own, samples) in parts.items():  # timm numbers the classes of each split by itself; ours are train's
        if strange := [label for label in own if label not in classes]:
            raise DataError(f"the {part} part of {spec} has classes that train has not: {', '.join(strange[:5])}")
        splits[part] = [Sample(sample.path, classes.index(own[sample.label])) for sample in samples]
    return ImageSet(spec, classes, root, **carve(splits, root, seed=seed))


def _read_folder(folder: Path) -> _Part:
    try:
        reader = timm.data.create_reader("", str(folder))
    except Exception as error:  # timm's readers assert and raise RuntimeError
        raise DataError(f"timm cannot read {folder}: {first_line(error)}") from None
    classes = tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__))
    return classes, [Sample(Path(path), int(label)) for path, label in reader.samples]


def _torch_parts(name: str) -> tuple[dict[str, _Part], Path]:
    kind, _, folder = name.partition(":")
    which = kind.lower().removeprefix("torch/")
    if which not in _TORCH or not folder:
        raise DataError(
            f"of timm's data sets by name torch/{', torch/'.join(_TORCH)} are read, as timm:torch/mnist:FOLDER, got "
            f"{name!r}; give others as a folder of class folders, or by their own layout "
            "(`fgvc-kit datasets`)"
        )
    root = user_path(folder).absolute()
    parts = {}
    for part, split in (("train", "train"), ("test", "validation")):
        try:
            dataset = timm.data.create_dataset(kind.lower(), root=str(root), split=split, download=False)
        except (RuntimeError, OSError) as error:
            raise DataError(f"timm cannot read {kind} in {root}: {first_line(error)}") from None
        labels, classes = [int(label) for label in dataset.targets], tuple(dataset.classes)
        pixels = hashlib.sha256(dataset.data.numpy().tobytes()).hexdigest()
        facts = sha256_text(repr([str(root), kind, split, len(dataset), pixels]))[:16]
        target = cache_folder() / "data" / f"{which}-{split}-{facts}"

        def fill(folder: Path, images: Any = dataset, labels: list[int] = labels) -> None:
            """One file for each image, in class folders by number."""
            for index, label in enumerate(labels):
                (folder / str(label)).mkdir(exist_ok=True)
                images[index][0].save(folder / str(label) / f"{index:07}.png")

        if not target.is_dir():
            lay_out(target, fill)
        samples = [Sample(target / str(label) / f"{index:07}.png", label) for index, label in enumerate(labels)]
        parts[part] = classes, samples
    return parts, cache_folder() / "data"
