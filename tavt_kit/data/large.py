"""iNaturalist 2017 and ImageNet: their published val is what papers report on, so it is our test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tavt_kit.core.parsing import parse_json
from tavt_kit.data.folders import class_folders
from tavt_kit.data.images import Sample
from tavt_kit.data.listing import Listing, unique_names
from tavt_kit.errors import DataError


def read_imagenet(root: Path) -> Listing:
    """Read ``train/`` and ``val/``, folders of class folders named by WordNet ids.

    Raises:
        DataError: A folder is missing, or ``val/`` has no class folders.
    """
    classes, train = class_folders(root / "train")
    _, val = class_folders(root / "val", classes)
    return Listing(classes, {"train": tuple(train), "test": tuple(val)})


def read_inat2017(root: Path) -> Listing:
    """Read ``train2017.json`` and ``val2017.json``; an image meets its label by id, not by place.

    Raises:
        DataError: A file is missing or no COCO-like JSON, an id stands twice, or an image has no label.
    """
    rows = {part: _load(root / f"{part}2017.json") for part in ("train", "val")}
    try:
        kinds = {int(each["id"]): each for each in rows["train"]["categories"]}
        numbers = sorted(kinds)
        names = unique_names({str(i): str(kinds[i]["name"]) for i in numbers})
        above = {names[str(i)]: (str(kinds[i]["supercategory"]),) for i in numbers if "supercategory" in kinds[i]}
        labels = {number: label for label, number in enumerate(numbers)}
        parts = {part: _samples(root, root / f"{part}2017.json", body, labels) for part, body in rows.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the JSON files in {root} lack what iNaturalist 2017's have ({error!r}); get them again"
        ) from None
    return Listing(tuple(names.values()), {"train": parts["train"], "test": parts["val"]}, above)


def _load(file: Path) -> dict[str, Any]:
    try:
        body = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"the annotation file {file} is missing; unpack iNaturalist 2017's archives again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a JSON file: {error}; download it again") from None
    if not isinstance(body, dict):
        raise DataError(f"{file} must be a JSON object with images and annotations; download it again")
    return body


def _samples(root: Path, file: Path, body: dict[str, Any], labels: dict[int, int]) -> tuple[Sample, ...]:
    found: dict[int, int] = {}
    for each in body["annotations"]:
        if each["image_id"] in found:
            raise DataError(f"every image must have one label, but {each['image_id']} has two in {file}")
        found[each["image_id"]] = labels[each["category_id"]]
    samples: dict[int, Sample] = {}
    for each in body["images"]:
        if each["id"] in samples:
            raise DataError(f"every id must stand once in {file}, but {each['id']} stands twice; download it again")
        if each["id"] not in found:
            raise DataError(f"every image must have a label, but {each['id']} has none in {file}; download it again")
        samples[each["id"]] = Sample(root / str(each["file_name"]), found[each["id"]])
    return tuple(samples.values())
