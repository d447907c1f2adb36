"""No golden file is passed over in silence."""

from __future__ import annotations

from pathlib import Path

from tests.parity.kinds import KINDS, kind_of


def test_every_file_is_of_a_known_kind(reference: Path) -> None:
    files = sorted(reference.glob("*.npz"))
    assert files, f"no golden files in {reference}"
    unknown = [file.name for file in files if kind_of(file.stem) is None]
    assert not unknown, f"no test knows how to compare {', '.join(unknown)}; known beginnings: {', '.join(KINDS)}"


def test_the_longest_beginning_counts() -> None:
    assert kind_of("mixvit_hybrid_google") == "mixvit_hybrid_google" and kind_of("mixvit_hybrid_b") == "mixvit_hybrid"
    assert kind_of("tavt_something") is None


def test_pairs_are_whole(reference: Path) -> None:
    for file in reference.glob("*_google_loaded*.npz"):
        assert (reference / file.name.replace("_loaded", "_input")).exists(), file.name
    for file in reference.glob("*_google_input*.npz"):
        assert (reference / file.name.replace("_input", "_loaded")).exists(), file.name
