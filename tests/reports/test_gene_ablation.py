"""The sentence on what a gene of a joint search bought."""

from __future__ import annotations

import pytest

from tavt_kit.reports.front import ablation_text

ENTRY = {
    "gene": "precision", "without": {"text": "18x5,17x7 at 70 px", "macs": 100}, "macs_ratio": 1.0, "time_ratio": 0.55,
    "difference": {"difference": -0.006, "ci95": [-0.024, 0.012]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("gene", "begins"),
    [("precision", "The other precision"), ("tokens", "Dropping tokens"), ("image_size", "The image size"),
     ("layers", "Leaving layers out"), ("score", "The other score")],
)  # fmt: skip
def test_each_gene_is_named_with_its_price(gene: str, begins: str) -> None:
    said = ablation_text({**ENTRY, "gene": gene})
    assert (
        said.startswith(f"{begins} bought ")
        and "bought −45.0 % time for −0.6 points" in said
        and "(against 18x5,17x7 at 70 px)." in said
    )
    assert "95 % −2.4 to +1.2" in said and "multiply-adds" not in said  # as many as without it


def test_what_was_not_timed_says_so_by_silence() -> None:
    said = ablation_text({**ENTRY, "time_ratio": None, "macs_ratio": 0.5})
    assert "bought −50.0 % multiply-adds for" in said and "time" not in said
    assert "bought nothing for" in ablation_text({**ENTRY, "time_ratio": None})
