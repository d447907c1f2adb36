"""The sentence on what is not for commercial use, over every data set whose facts are known."""

from __future__ import annotations

import pytest

from tavt_kit.core.model_card import Licence, licence_sentence
from tavt_kit.data.packages import PACKAGES
from tavt_kit.data.published import FACTS

BOUND = {"cub", "cars", "nabirds", "aircraft", "inat2017", "imagenet"}
"""Those whose pages forbid commercial use; of the others some are free, and of some nobody says."""


@pytest.mark.parametrize("name", FACTS)
def test_every_known_data_set(name: str) -> None:
    licence = FACTS[name].as_licence()
    said = licence_sentence([None, licence])
    expected = f"not for commercial use: {licence.name} ({licence.licence})" if name in BOUND else None
    assert said == expected


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("CC BY-NC-SA 4.0", True),
        ("cc-by-nc-4.0", True),
        ("cc_by_nc_4.0", True),
        ("CC BY NC", True),
        ("Non-Commercial research only", True),
        ("noncommercial use", True),
        ("for non commercial purposes", True),
        ("CC BY-SA 4.0", False),
        ("apache-2.0", False),
        ("MIT", False),
        ("unknown; ask its authors", False),
        ("Uncommon Licence, Inc.", False),
    ],
)
def test_both_spellings_in_any_case(text: str, bound: bool) -> None:
    assert Licence("it", text, "").is_non_commercial is bound


def test_weights_and_data_are_named_once() -> None:
    elpv = next(package.licence for name, package in PACKAGES.items() if "elpv" in name)
    said = licence_sentence([elpv, elpv, Licence("weights", "MIT", ""), FACTS["cub"].as_licence()])
    assert said is not None
    assert said.count(elpv.name) == 1 and "CUB-200-2011" in said and "weights" not in said
    assert licence_sentence([]) is None
