"""What is said of a pack that was written: its size, and what to do with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tavt_kit.workflows.carried import Pack


def print_pack(pack: Pack, record: str, then: str, as_json: bool) -> None:
    """Print it on stdout.

    Args:
        pack: The zip.
        record: Name of the file that its runner writes on the device.
        then: The command that takes that file here.
        as_json: Whether one JSON object is printed instead.
    """
    if as_json:
        print(json.dumps({"pack": str(pack.path), "sha256": pack.sha256, "bytes": pack.size}))
        return
    runtime = pack.target.runtime
    print(f"{pack.path}: {pack.size / 1e6:.0f} MB, SHA-256 {pack.sha256}")
    print(
        f"on the device, with Python 3.11, numpy and {runtime}: python {pack.path.name}, which writes {record}; then "
        "here:"
    )
    print(then)
