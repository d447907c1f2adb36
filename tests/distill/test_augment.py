from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.options import AUGMENTATIONS, DataOptions
from tavt_kit.distill.transforms import augment
from tavt_kit.errors import TrainingError, UnknownName


def split(count: int = 40, height: int = 16, width: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_given_images_stay_and_the_seed_decides(name: str) -> None:
    given = split()
    copy = given.copy()
    first, second, third = (augment(given, [name], np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(given, copy)
    np.testing.assert_array_equal(first, second)
    assert (first != third).any() and (first != given).any()
    assert first.dtype == np.uint8 and first.shape == given.shape


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("flip", lambda p: [p, p[:, :, ::-1]]),
        ("vflip", lambda p: [p, p[:, ::-1]]),
        ("rotate", lambda p: [np.rot90(p, k, axes=(1, 2)) for k in range(4)]),
    ],
)
def test_each_image_becomes_one_of_its_variants_and_all_occur(name: str, variants: object) -> None:
    given = split()
    changed = augment(given, [name], np.random.default_rng(0))
    seen = []
    for old, new in zip(given, changed, strict=True):
        found = [i for i, variant in enumerate(variants(old)) if (variant == new).all()]  # type: ignore[operator]
        assert len(found) == 1
        seen += found
    assert set(seen) == set(range(len(variants(given[0]))))  # type: ignore[operator]


def test_a_shift_moves_by_up_to_an_eighth_and_mirrors_the_border() -> None:
    given = split(60, 16, 24)
    changed = augment(given, ["shift"], np.random.default_rng(0))
    moves = set()
    for old, new in zip(given, changed, strict=True):
        padded = np.pad(old, ((0, 0), (2, 2), (3, 3)), mode="reflect")
        found = [
            (down - 2, right - 3)
            for down in range(5)
            for right in range(7)
            if (padded[:, down : down + 16, right : right + 24] == new).all()
        ]
        assert len(found) == 1
        moves.update(found)
    assert {down for down, _ in moves} == {-2, -1, 0, 1, 2} and {right for _, right in moves} >= {-3, 3}


def test_nothing_asked_changes_nothing() -> None:
    np.testing.assert_array_equal(augment(split(), (), np.random.default_rng(0)), split())


def test_names_are_checked_and_ordered() -> None:
    assert DataOptions(augment=("rotate", "flip")).settled(Preprocessing((8, 8))).augment == ("flip", "rotate")
    with pytest.raises(UnknownName, match="blur"):
        DataOptions(augment=("blur",))
    with pytest.raises(TrainingError, match="8x16"):
        DataOptions(augment=("rotate",)).settled(Preprocessing((8, 16)))
