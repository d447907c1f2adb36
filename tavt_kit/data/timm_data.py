"""What ``timm.data`` reads: class folders in natural order, tar files, and torchvision's small sets, by ``timm:PLACE``.

timm numbers classes in natural order ("2" before "10") where this kit and torchvision sort plainly; whoever has weights
trained through timm's folders (ViTAE's, for one) needs its order. Images that are not files of their own are laid out
in the cache once. timm's readers for TensorFlow, WebDataset and Hugging Face data sets need packages of their own,
and torchvision's CIFAR is pickled: these are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tavt_kit.core.records import sha256_text
from tavt_kit.data.images import ImageSet, Sample, split_name
from tavt_kit.data.packages import cache_folder, lay_out
from tavt_kit.data.splits import Ratios, carve
from tavt_kit.errors import DataError
from tavt_kit.models.timm_import import timm

_TORCH = ("fashion_mnist", "kmnist", "mnist")
"""torchvision's sets that timm knows and that are read without unpickling anything."""

_Part = tuple[tuple[str, ...], list[Sample]]


def load_timm(name: str, spec: str, *, seed: int = 0, ratios: Ratios | None = None) -> ImageSet:
    """Read data as timm does, with our own val split where none is given; the set is called by the ``spec``.

    The name is that of a folder or a tar file of class folders, or of a folder with one of either for each split
    (``train``, ``val``, ``test``); or ``torch/fashion_mnist:FOLDER`` and its like.

    Raises:
        DataError: The place is missing or damaged, or of a kind that is not read.
    """
    if name.partition(":")[0].lower().split("/")[0] in ("hfds", "hfids", "tfds", "torch", "wds") and "/" in name:
        parts, root = _torch_parts(name)
    else:
        root = Path(name).expanduser().absolute()
        if not root.exists():
            raise DataError(f"{root} does not exist; give timm:PLACE with a folder or a tar file of class folders")
        inside = [] if root.is_file() else sorted(root.iterdir())
        given = {part: child for child in inside if (part := split_name(child.name.removesuffix(".tar"))) is not None}
        read = {part: _read_place(child) for part, child in (given if "train" in given else {"train": root}).items()}
        parts, roots = {part: found for part, (found, _) in read.items()}, {own for _, own in read.values()}
        root = root if len(roots) > 1 else roots.pop()
    classes = parts["train"][0] if "train" in parts else next(iter(parts.values()))[0]
    splits = {}
    for part, (own, samples) in parts.items():  # timm numbers the classes of each split by itself; ours are train's
        if strange := [label for label in own if label not in classes]:
            raise DataError(f"the {part} part of {spec} has classes that train has not: {', '.join(strange[:5])}")
        splits[part] = [Sample(sample.path, classes.index(own[sample.label])) for sample in samples]
    return ImageSet(spec, classes, root, **carve(splits, root, seed=seed, ratios=ratios))


def _read_place(place: Path) -> tuple[_Part, Path]:
    tars = place.is_dir() and not any(child.is_dir() for child in place.iterdir()) and any(place.glob("*.tar"))
    try:
        if tars or place.suffix == ".tar":
            reader = timm.data.readers.reader_image_in_tar.ReaderImageInTar(
                str(place),
                cache_tarinfo=False,  # timm would keep what it found in a pickle
            )
            return _unpacked(reader, place)
        reader = timm.data.create_reader("", str(place))
    except Exception as error:  # timm's readers assert, raise RuntimeError, and hand on what tarfile says
        raise DataError(f"timm cannot read {place}: {str(error).splitlines()[0] if str(error) else error!r}") from None
    classes = tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__))
    return (classes, [Sample(Path(path), int(label)) for path, label in reader.samples]), place


def _unpacked(reader: Any, place: Path) -> tuple[_Part, Path]:
    """A tar's images as files of the cache."""
    classes = tuple(reader.class_idx_to_name[index] for index in range(len(reader.class_idx_to_name)))
    names = [f"{index:07}-{reader.filename(index, basename=True)}" for index in range(len(reader))]
    labels = [int(label) for label in reader.targets]
    tars = [place] if place.is_file() else sorted(place.glob("*.tar"))
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in tars]

    def write(index: int, path: Path) -> None:
        member: BinaryIO = reader[index][0]
        path.write_bytes(member.read())

    try:
        return _laid_out(place.stem, facts, classes, names, labels, write)
    finally:
        states = [reader.tar_state] if reader.root_is_tar else list(reader.tar_state.values())
        for state in [*states, *(child for parent in states for child in parent.children.values())]:
            if state.tf is not None:  # timm leaves them open
                state.tf.close()


def _laid_out(
    name: str,
    facts: Sequence[object],
    classes: tuple[str, ...],
    names: Sequence[str],
    labels: Sequence[int],
    write: Callable[[int, Path], None],
) -> tuple[_Part, Path]:
    """One file for each image, in class folders by number, below a folder named by what they come from."""
    target = cache_folder() / "data" / f"{name}-{sha256_text(repr(facts))[:16]}"

    def fill(folder: Path) -> None:
        for index, (file, label) in enumerate(zip(names, labels, strict=True)):
            (folder / str(label)).mkdir(exist_ok=True)
            write(index, folder / str(label) / file)

    if not target.is_dir():
        lay_out(target, fill)
    pairs = zip(names, labels, strict=True)
    return (classes, [Sample(target / str(label) / file, label) for file, label in pairs]), target


def _torch_parts(name: str) -> tuple[dict[str, _Part], Path]:
    kind, _, folder = name.partition(":")
    family, _, which = kind.lower().partition("/")
    if family != "torch" or which not in _TORCH or not folder:
        raise DataError(
            f"of timm's data sets by name torch/{', torch/'.join(_TORCH)} are read, as timm:torch/mnist:FOLDER, got "
            f"{name!r}; give others as a folder or tar file of class folders, or by their own layout "
            "(`fgvc-kit datasets`)"
        )
    root = Path(folder).expanduser().absolute()
    parts = {}
    for part, split in (("train", "train"), ("test", "validation")):
        try:
            found = timm.data.create_dataset(kind.lower(), root=str(root), split=split, download=False)
        except (RuntimeError, OSError) as error:
            raise DataError(f"timm cannot read {kind} in {root}: {str(error).splitlines()[0]}") from None
        names = [f"{index:07}.png" for index in range(len(found))]
        facts = [str(root), kind, split, len(found), hashlib.sha256(found.data.numpy().tobytes()).hexdigest()]
        labels = [int(label) for label in found.targets]

        def write(index: int, path: Path, images: Any = found) -> None:
            images[index][0].save(path)

        parts[part], _ = _laid_out(f"{which}-{split}", facts, tuple(found.classes), names, labels, write)
    return parts, cache_folder() / "data"
