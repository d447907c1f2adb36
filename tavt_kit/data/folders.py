"""A user's own images: train/val/test folders of class folders, one folder of class folders, or a CSV list."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from tavt_kit.data.images import IMAGE_SUFFIXES, ImageSet, Sample, split_name
from tavt_kit.data.splits import carve
from tavt_kit.errors import DataError

_LAYOUT = "one folder per class with images in it, or train/, val/ and test/ folders of these"
_NOT_CLASSES = frozenset({"__MACOSX", "__pycache__", "@eaDir", "lost+found"})


def load_folder(folder: Path, *, seed: int = 0) -> ImageSet:
    """Read an image folder.

    With a ``train`` sub-folder the given splits are taken (``valid`` and ``validation`` are read as val); a
    missing val is carved out of train. Without one, every sub-folder is a class, and we split as ``carve`` does.

    Raises:
        DataError: The folder is missing, unreadable or empty, a class is empty, or there are fewer than two.
    """
    folder = folder.absolute()
    children = _children(folder)
    given = {name: child for child in children if (name := split_name(child.name)) is not None}
    if "train" in given:
        for name in given:  # two folders for one split (``val`` and ``valid``) leave open which is meant
            same = [child.name for child in children if split_name(child.name) == name]
            if len(same) > 1:
                raise DataError(f"{folder} has several {name} folders ({', '.join(same)}); keep one of them")
        classes, samples = class_folders(given["train"])
        parts = {"train": samples}
        parts |= {part: class_folders(given[part], classes)[1] for part in ("val", "test") if part in given}
    else:
        classes, samples = class_folders(folder)
        if not samples:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"no image ({kinds}) lies in the {len(classes)} class folders of {folder}; give {_LAYOUT}")
        if empty := sorted(set(range(len(classes))) - {sample.label for sample in samples}):
            raise DataError(f"class folder {folder / classes[empty[0]]} has no image; add some or remove the folder")
        parts = {"train": samples}
    return ImageSet(folder.name or str(folder), classes, folder, **carve(parts, folder, seed=seed))


def class_folders(folder: Path, classes: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], list[Sample]]:
    """The classes and images below a folder of class folders; no others than ``classes`` may appear.

    Raises:
        DataError: The folder is missing, has no class folders, or has others than ``classes``.
    """
    children = _children(folder)
    if not children:
        raise DataError(f"{folder} has no class folders; give {_LAYOUT}")
    names = tuple(child.name for child in children)
    if classes is None:
        classes = names
    elif strange := sorted(set(names) - set(classes)):
        raise DataError(
            f"{folder} has classes that train has not: {', '.join(strange[:5])}; every class must be trained"
        )
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [Sample(path, labels[child.name]) for child in children for path in _images(child)]


def _children(folder: Path) -> list[Path]:
    """Sub-folders that may be classes or splits, sorted by name."""
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir())
    except FileNotFoundError:
        raise DataError(f"the data folder {folder} does not exist; give {_LAYOUT}") from None
    except OSError as error:
        raise DataError(f"the data folder {folder} cannot be read: {error.strerror}") from None
    return [child for child in children if not child.name.startswith(".") and child.name not in _NOT_CLASSES]


def _images(folder: Path) -> list[Path]:
    """Every image below a class folder, at any depth, in no order; hidden files and folders are left out."""

    def refuse(error: OSError) -> None:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}")

    images = []
    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_CLASSES]
        paths = (Path(where, name) for name in files if not name.startswith("."))
        images += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    return images


def images_below(folder: Path) -> list[Path]:
    """Every image below a folder, at any depth, sorted; hidden files and folders are left out.

    Raises:
        DataError: It is no folder, cannot be read, or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder of images, but is {'a file' if folder.exists() else 'not there'}")
    if not (images := sorted(_images(folder))):
        raise DataError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder")
    return images


def load_csv(file: Path, *, seed: int = 0) -> ImageSet:
    """Read a list of images: UTF-8, comma-separated, with a header.

    Paths are relative to the file's folder (absolute ones are taken as they are); labels are any text.
    Without a ``split`` column we split as ``carve`` does; with one, a missing val is carved out of train.

    Raises:
        DataError: The file, a column or an entry is missing, a split name is unknown, or no listed image
            exists.
    """
    file = file.absolute()
    rows = list(_rows(file))
    if not rows:
        raise DataError(f"{file} lists no image; it needs a header 'path,label' and one line per image")
    if not any(path.is_file() for path, _, _ in rows):
        raise DataError(
            f"none of the {len(rows)} images listed in {file} exists, for example {rows[0][0]}; paths "
            "are relative to the list's own folder"
        )
    classes = tuple(sorted({label for _, label, _ in rows}))
    labels = {name: label for label, name in enumerate(classes)}
    parts: dict[str, list[Sample]] = {}
    for path, label, split in rows:
        parts.setdefault(split, []).append(Sample(path, labels[label]))
    return ImageSet(file.stem, classes, file.parent, **carve(parts, file.parent, seed=seed))


def _rows(file: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, label and split of each row, checked; spreadsheets' byte-order mark is welcome."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            if missing := [name for name in ("path", "label") if name not in columns]:
                raise DataError(
                    f"{file} needs the columns path and label; missing: {', '.join(missing)}; its columns: "
                    f"{', '.join(columns) or 'none'}"
                )
            reader.fieldnames = columns
            for row in reader:
                path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
                where = f"{file}, line {reader.line_num}"
                if not path or not label:
                    raise DataError(f"{where}: an image needs a path and a label, got {path!r}, {label!r}")
                split = split_name(row["split"] or "") if "split" in columns else "train"
                if split is None:
                    raise DataError(f"{where}: a split is train, val or test, got {row['split']!r}")
                # normpath, so that one image spelled in two ways is seen to be one.
                yield Path(os.path.normpath(file.parent / path)), label, split
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8 text; save the list as UTF-8 CSV") from None
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV list: {error}") from None
    except FileNotFoundError:
        raise DataError(f"the list {file} does not exist; give one with the columns path,label") from None
    except OSError as error:
        raise DataError(f"the list {file} cannot be read: {error.strerror}") from None
