from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.model_card import Licence, ModelCard, read_card, write_card
from tavt_kit.errors import RecordError


def card(**change: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "family": "timm_vit",
        "name": "vit_tiny_patch16_224",
        "arguments": {"img_size": (112, 96), "num_classes": 2},
        "classes": ("<b>a</b>", "größe"),
        "preprocessing": {"image_size": [112, 96]},
        "licences": (Licence("w", "MIT", "here"),),
    }
    return ModelCard(**(fields | change))


def test_round_trip_through_the_file(tmp_path: Path) -> None:
    write_card(tmp_path, card())
    assert read_card(tmp_path) == card()
    record = json.loads((tmp_path / "model.json").read_text())
    assert (record["schema"], record["version"]) == ("fgvc-kit/model", 1)
    assert record["licences"] == [{"name": "w", "licence": "MIT", "source": "here"}]
    assert card().arguments["img_size"] == [112, 96]


def test_bad_cards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="at least one class"):
        card(classes=())
    with pytest.raises(RecordError, match="twice: x"):
        card(classes=("x", "y", "x"))
    with pytest.raises(RecordError, match="JSON values"):
        card(arguments={"layer": object()})
    with pytest.raises(RecordError, match="family is missing"):
        ModelCard.from_record({k: v for k, v in card().as_record().items() if k != "family"})
    with pytest.raises(RecordError, match="colour is not known"):
        ModelCard.from_record(card().as_record() | {"colour": "red"})
    with pytest.raises(RecordError, match="name must be"):
        ModelCard.from_record(card().as_record() | {"name": 5})
    with pytest.raises(RecordError, match=r"licences\[0\].licence is missing"):
        ModelCard.from_record(card().as_record() | {"licences": [{"name": "w"}]})
    with pytest.raises(RecordError, match="No such file"):
        read_card(tmp_path)


def test_a_licence_is_added_once() -> None:
    more = Licence("data", "CC BY-NC-SA 4.0", "there")
    assert card().with_licence(more).with_licence(more).licences == (Licence("w", "MIT", "here"), more)
