"""What an export refuses before it begins: its own run's folder, too little space."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.errors import ExportError, OutputError
from tavt_kit.exporters.forms import Form

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT


def refuse_little_space(adaptive: AdaptiveViT, out: Path, forms: Sequence[Form]) -> None:
    """Before any work: is there room for the files, and the f32 graph that the last of them is made from?

    Raises:
        OutputError: There is not.
    """
    weights = sum(weight.numel() * weight.element_size() for weight in adaptive.state_dict().values())
    share = {"f32": 1.0, "f16": 0.5, "bf16": 0.5, "int8": 0.27, "w8": 0.3}
    needed = sum(weights * share[form.precision] for form in forms) + (weights if forms else 0)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OutputError(
            f"{out} has {free / 1e6:.0f} MB left, but {len(forms)} files of this model need about "
            f"{needed / 1e6:.0f} MB; make room, or choose another `out`"
        )


@contextmanager
def space_left(out: Path) -> Iterator[None]:
    """Space may run out on the way too: whatever a converter calls that becomes an OutputError."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise OutputError(f"no space is left in {out}; make room, or choose another `out`") from None
        raise


def refuse_own_folder(out: Path, run: str, forms: Sequence[Form]) -> None:
    """A run must not be overwritten by its own export.

    Raises:
        ExportError: Safetensors would go into the very folder they come from.
    """
    same = bool(run) and Path(run).exists() and Path(out).resolve() == Path(run).resolve()
    if same and any(form.format == "safetensors" for form in forms):
        raise ExportError(f"{out} is the run itself, whose weights stay as they are; give safetensors another `out`")
