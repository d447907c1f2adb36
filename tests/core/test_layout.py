"""What a schedule must fit, as one value."""

from __future__ import annotations

import pytest

from tavt_kit.core.layout import TokenLayout


@pytest.mark.parametrize(("prefix", "least"), [(0, 2), (1, 2), (5, 6)])
def test_the_least_is_the_prefix_and_a_patch_and_never_below_two(prefix: int, least: int) -> None:
    assert TokenLayout(21, 12, prefix).least == least


def test_a_record_holds_the_sizes_and_leaves_the_pooling_to_others() -> None:
    layout = TokenLayout(21, 12, 5)
    assert layout.as_record() == {"tokens": 21, "layers": 12, "prefix": 5}
    assert TokenLayout.from_record(layout.as_record()) == layout
    assert TokenLayout(21, 12, 5, token_pooled=False).as_record() == layout.as_record()
