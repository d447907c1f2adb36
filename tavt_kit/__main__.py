"""``python -m tavt_kit`` is ``fgvc-kit``."""

from __future__ import annotations

from tavt_kit.cli import main

main()
