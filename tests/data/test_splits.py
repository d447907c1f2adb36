from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tavt_kit.data import Sample, inherit_split, load_images, read_split, write_split
from tavt_kit.data.sources import inherited_images
from tavt_kit.data.splits import divide
from tavt_kit.errors import DataError, RecordError
from tests.verbs.tiny import write_images

Folders = Callable[[Path, Iterable[str], int], Path]
SHARES = {"val": 0.2, "test": 0.2}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 5))
def test_a_division_keeps_every_image_once_and_the_shares_of_each_class(counts: list[int], seed: int) -> None:
    samples = [Sample(Path(f"/d/{label}/{i}"), label) for label, n in enumerate(counts) for i in range(n)]
    parts = divide(samples, Path("/d"), seed=seed, shares=SHARES)
    assert Counter(sample for part in parts.values() for sample in part) == Counter(samples)
    for label, n in enumerate(counts):
        for name, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
            got = sum(sample.label == label for sample in parts[name])
            assert abs(got - share * n) <= 1.0
        if n:
            assert any(sample.label == label for sample in parts["train"])


def test_one_more_image_moves_few_others() -> None:
    before = [Sample(Path(f"/d/{i}"), 0) for i in range(100)]
    old = divide(before, Path("/d"), seed=0, shares=SHARES)
    new = divide([*before, Sample(Path("/d/new"), 0)], Path("/d"), seed=0, shares=SHARES)
    moved = sum(sample not in new[name] for name, part in old.items() for sample in part)
    assert moved <= 3


def test_the_record_gives_the_same_set_back(tmp_path: Path, class_folders: Folders) -> None:
    images = load_images(str(class_folders(tmp_path / "data", ["a", "b"], 5)), seed=7)
    (tmp_path / "run").mkdir()
    write_split(tmp_path / "run", images)
    again = read_split(tmp_path / "run")
    assert again == images
    record = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (record["schema"], record["version"], record["seed"]) == ("fgvc-kit/split", 1, 7)
    assert record["sha256"] == images.sha256
    assert record["splits"]["val"][0][0].startswith("a/")


def test_data_that_moved_is_found_by_its_new_root(tmp_path: Path, class_folders: Folders) -> None:
    images = load_images(str(class_folders(tmp_path / "data", ["a", "b"], 5)))
    (tmp_path / "run").mkdir()
    write_split(tmp_path / "run", images)
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="is gone"):
        read_split(tmp_path / "run")
    with pytest.raises(DataError, match="is gone"):
        inherited_images(tmp_path / "run", None)
    assert inherited_images(tmp_path / "run", str(tmp_path / "moved")).sha256 == images.sha256
    again = read_split(tmp_path / "run", tmp_path / "moved")
    assert again.sha256 == images.sha256
    assert again.split("train")[0].path.is_file()


def test_another_data_set_or_seed_under_a_split_is_refused(tmp_path: Path, class_folders: Folders) -> None:
    data = class_folders(tmp_path / "data", ["a", "b"], 10)
    run = tmp_path / "run"
    run.mkdir()
    images = load_images(str(data), seed=0)
    assert inherit_split(run, images) is images
    assert inherit_split(run, load_images(str(data), seed=0)).sha256 == images.sha256
    with pytest.raises(DataError, match="seed 0.*seed 1.*another `out`"):
        inherit_split(run, load_images(str(data), seed=1))
    other = load_images(str(class_folders(tmp_path / "other", ["a", "c"], 10)))
    with pytest.raises(DataError, match="cannot be compared"):
        inherit_split(run, other)


def test_a_record_changed_by_hand_is_refused(tmp_path: Path, class_folders: Folders) -> None:
    write_split(tmp_path, load_images(str(class_folders(tmp_path / "data", ["a", "b"], 5))))
    record = json.loads((tmp_path / "split.json").read_text())
    record["splits"]["train"][0][1] = 1
    (tmp_path / "split.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="changed by hand"):
        read_split(tmp_path)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"splits": {"train": [["a/0.png", "0"]]}}, r"splits.train\[0\]\[1\] must be a whole number, but is '0'"),
        ({"splits": {"train": [["a/0.png"]]}}, r"splits.train\[0\] must be two values"),
        ({"splits": None}, "splits must be an object, but is None"),
        ({"splits": {"train": [["a/0.png", 0]]}}, "has no val split"),
        ({"splits": {"train": [["a/0.png", 7]]}}, "must be of one of 2 classes, but is of number 7"),
        ({"classes": [1, 2]}, r"classes\[0\] must be text, but is 1"),
        ({"licence": {"name": "w"}}, "licence.licence is missing"),
    ],
)
def test_what_is_wrong_at_any_depth_is_named(
    tmp_path: Path, class_folders: Folders, change: dict[str, object], place: str
) -> None:
    write_split(tmp_path, load_images(str(class_folders(tmp_path / "data", ["a", "b"], 5))))
    record = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps({**record, **change}))
    with pytest.raises((RecordError, DataError), match=place):
        read_split(tmp_path)


def test_other_files_of_the_same_names_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, other = write_images(tmp_path / "data"), write_images(tmp_path / "other", size=40)
    write_split(tmp_path, load_images(str(data)))
    assert read_split(tmp_path).sha256 == read_split(tmp_path, data).sha256 and not caplog.messages
    data.rename(tmp_path / "moved")
    read_split(tmp_path, tmp_path / "moved")
    assert not caplog.messages  # the same files at another place
    read_split(tmp_path, other)
    (said,) = caplog.messages
    assert "not the sizes" in said and str(other) in said
