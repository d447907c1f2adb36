"""What ``import tavt_kit as tk`` promises."""

from __future__ import annotations

import tavt_kit as tk
from tests.golden.golden import Golden


def test_public_names(golden: Golden) -> None:
    golden.compare("public-names", tk.__all__)
