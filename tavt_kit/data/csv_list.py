"""Images listed in a CSV file: the columns path and label, and split where the division is given."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tavt_kit.data.images import ImageSet, Sample, split_name
from tavt_kit.data.splits import Ratios, divide
from tavt_kit.errors import DataError


@dataclass(frozen=True, slots=True)
class _Row:
    path: Path
    label: str
    split: str | None


def load_csv(file: Path, *, seed: int = 0, ratios: Ratios | None = None) -> ImageSet:
    """Read a list of images.

    Paths are relative to the file's folder (absolute ones are taken as they are); labels are any text.
    Without a ``split`` column we split, stratified by label; with one, a missing val is carved out of train.

    Args:
        file: UTF-8, comma-separated, with a header.
        seed: Of a split that we make.
        ratios: Its shares; 60/20/20 by default.

    Raises:
        DataError: The file, a column or an entry is missing, a split name is unknown, or no listed image
            exists.
    """
    ratios = ratios or Ratios()
    file = file.absolute()
    rows = list(_rows(file))
    if not rows:
        raise DataError(f"{file} lists no image; it needs a header 'path,label' and one line per image")
    if not any(row.path.is_file() for row in rows):
        raise DataError(
            f"none of the {len(rows)} images listed in {file} exists, for example {rows[0].path}; paths "
            "are relative to the list's own folder"
        )
    classes = tuple(sorted({row.label for row in rows}))
    labels = {name: label for label, name in enumerate(classes)}
    parts: dict[str | None, list[Sample]] = {}
    for row in rows:
        parts.setdefault(row.split, []).append(Sample(row.path, labels[row.label]))
    return _split(file, classes, parts, seed, ratios)


def _split(
    file: Path, classes: tuple[str, ...], parts: dict[str | None, list[Sample]], seed: int, ratios: Ratios
) -> ImageSet:
    root = file.parent
    ours = "random, stratified by class, "
    if None in parts:
        splits = divide(parts[None], root, seed=seed, ratios=ratios)
        return ImageSet(file.stem, classes, root, splits, f"{ours}{ratios}", seed)
    given = {name: tuple(samples) for name, samples in parts.items() if name is not None}
    if "val" in given or "train" not in given:
        return ImageSet(file.stem, classes, root, given)
    carved = ratios.without_test() if "test" in given else ratios
    given |= divide(given["train"], root, seed=seed, ratios=carved)
    return ImageSet(file.stem, classes, root, given, f"val taken from train, {ours}{carved}", seed)


def _rows(file: Path) -> Iterator[_Row]:
    """The checked rows; spreadsheets' byte-order mark is welcome."""
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
                yield _row(file, reader.line_num, row, "split" in columns)
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8 text; save the list as UTF-8 CSV") from None
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV list: {error}") from None
    except FileNotFoundError:
        raise DataError(f"the list {file} does not exist; give one with the columns path,label") from None
    except OSError as error:
        raise DataError(f"the list {file} cannot be read: {error.strerror}") from None


def _row(file: Path, line: int, row: dict[str, str | None], has_split: bool) -> _Row:
    path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
    if not path or not label:
        raise DataError(f"{file}, line {line}: an image needs a path and a label, got {path!r}, {label!r}")
    # normpath, so that one image spelled in two ways is seen to be one.
    where = Path(os.path.normpath(file.parent / path))
    if not has_split:
        return _Row(where, label, None)
    split = split_name(row["split"] or "")
    if split is None:
        raise DataError(f"{file}, line {line}: a split is train, val or test, got {row['split']!r}")
    return _Row(where, label, split)
