"""Does an artifact say the same of an image whatever batch the image comes in?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.checks.claims import onnx_constants
from tavt_kit.checks.compare import Logits, relative_error
from tavt_kit.checks.report import BatchCheck
from tavt_kit.checks.source import BATCH, Source
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import first_line
from tavt_kit.runtimes import Session

USUAL = (1, 5)  # sizes of which several batches are compared with the main pass
ONCE = (2, 3, 4, 6, 7, 16)  # sizes of which one batch is: with the usual ones and the main pass all up to eight
_PARTS = 3  # batches of a usual size, and of any other where a file that rounds strays in its first one
_LAST = 3  # images in a last batch that is tried where the main pass ends with a whole one
_POOL = 32  # images that go into all these batches, some of them several times
_DRAWN = range(9, 33)  # sizes of which a file's hash draws one, so that over many files all are tried
_COMPARED = 64  # the largest number in a graph that is tried as a batch size
_MOST = 8  # of these; a sound export has none, or such as 2 or 3

NearTies = Callable[[list[int], int], set[int]]
"""(places of images that strayed, of how many) -> those whose choice of tokens hangs on the last bits."""


class Attempts:
    """A session that gives NaN where its runtime refuses a batch or answers another; what it said becomes a verdict."""

    def __init__(self, session: Session, classes: int) -> None:
        self._session, self._classes = session, classes
        self.refusal: str | None = None

    def __call__(self, images: NDArray[Any]) -> Logits:
        try:
            logits = self._session(images)
            if len(logits) == len(images):
                return logits
            said = f"it gives {len(logits)} answers to a batch of {len(images)}"
        except Exception as error:  # each runtime has its own; none of them must hide behind a traceback
            said = f"it cannot run a batch of {len(images)}: {first_line(error)}"
        self.refusal = self.refusal or said
        return np.full((len(images), self._classes), np.nan, np.float32)


def further_sizes(file: Path, sha256: str) -> tuple[int, ...]:
    """Batch sizes to try of this file beside those that are tried of each: one by chance, and those it compares with.

    A graph that is wrong at one batch size alone has that size, or the last one that is right, somewhere in it.
    """
    drawn = _DRAWN[int(sha256[:8], 16) % len(_DRAWN)]
    readers = {".onnx": _compared_in_onnx, ".xml": _compared_in_openvino}
    read = readers.get(file.suffix)
    beside = {size for number in (read(file) if read else ()) for size in (number, number + 1)}
    return tuple(dict.fromkeys((drawn, *sorted(size for size in beside if 1 < size <= _COMPARED)[:_MOST])))


_COMPARING = {"Equal", "NotEqual", "Mod", "FloorMod", "Less", "LessEqual", "LessOrEqual", "Greater", "GreaterEqual",
              "GreaterOrEqual"}  # fmt: skip
_CHANGING = {"Cast", "Convert", "ConvertLike", "CastLike", "Unsqueeze", "Reshape", "Squeeze", "Identity"}


def _compared_in_onnx(path: Path) -> set[int]:
    """Whole numbers that its graph compares something with."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path), load_external_data=False).graph
    known, made_by = onnx_constants(graph), {name: node for node in graph.node for name in node.output}
    numbers: set[int] = set()
    for name in (name for node in graph.node if node.op_type in _COMPARING for name in node.input):
        while name in made_by and made_by[name].op_type in _CHANGING:
            name = made_by[name].input[0]
        tensor = known.get(name)
        if tensor is not None and not tensor.external_data:
            numbers |= _whole_number(numpy_helper.to_array(tensor))
    return numbers


def _compared_in_openvino(path: Path) -> set[int]:
    from tavt_kit.runtimes.on_openvino import openvino_core

    numbers: set[int] = set()
    for node in openvino_core().read_model(path).get_ordered_ops():
        if node.get_type_name() in _COMPARING:
            for side in node.inputs():
                maker = side.get_source_output().get_node()
                while maker.get_type_name() in _CHANGING:
                    maker = maker.input(0).get_source_output().get_node()
                if maker.get_type_name() == "Constant":
                    numbers |= _whole_number(maker.get_data())
    return numbers


def _whole_number(values: NDArray[Any]) -> set[int]:
    """It, where that is what the array holds."""
    value = float(values.reshape(-1)[0]) if values.size == 1 else math.nan
    return {int(value)} if value.is_integer() else set()


def check_batches(
    attempts: Attempts,
    source: Source,
    seen: Preprocessing | None,
    main: Logits,
    *,
    tolerance: float,
    scale: float,
    near_ties: NearTies | None = None,
    further: Sequence[int] = (),
) -> BatchCheck:
    """The first images again in batches of other sizes, and the last ones in another batch than they came in.

    Each image must be answered as in the main pass, within the tolerance. Where the last bits of a sum choose another
    token both answers are right: an exact artifact proves that by ``near_ties``; of another one (8 bits, half
    precision) an image may differ now and then, but not most images of a batch size, and not the same row of most
    batches. An answer that is not finite is wrong everywhere.

    Images that the artifact prepares itself (``seen`` is None) may come in many sizes, each a batch of its own; the
    first of them, cut to the size that they have in common, then take the place of the images.

    Args:
        main: (n, classes) answers of the main pass, in the artifact's own order of classes.
        further: Batch sizes to try once beside the usual ones.
    """
    n = len(main)
    if seen is None:
        whole = source.at(range(min(n, max(USUAL))), as_they_are=True)
        height, width = (min(image.shape[axis] for image in whole) for axis in (0, 1))
        pool, near_ties = np.stack([image[:height, :width] for image in whole]), None
        expected = np.concatenate([attempts(image[None]) for image in pool])
    else:
        pool, expected = source.at(range(min(n, _POOL)), seen), main
    begun = 0

    def next_batch(size: int) -> list[int]:
        """The images after those of the last batch, and the first again after the last."""
        nonlocal begun
        begun += size
        return [index % len(pool) for index in range(begun - size, begun)]

    def apart(batch: Sequence[int]) -> NDArray[np.float64]:
        images = pool[batch] if max(batch) < len(pool) else source.at(batch, seen)
        return relative_error(attempts(images), np.nan_to_num(expected[batch]), scale)

    batches = {size: [next_batch(size) for _ in range(min(_PARTS, math.ceil(n / size)))] for size in USUAL}
    batches |= {size: [next_batch(size)] for size in (*ONCE, *further) if size not in USUAL}
    last = () if seen is None or n <= BATCH else (n % BATCH or _LAST,)
    for size in last:
        # What came in a part of a batch comes in a whole one now, and the other way about.
        batches.setdefault(size, []).append([*range(n - (BATCH if n % BATCH else _LAST), n)])
    largest, reason = 0.0, ""
    for size, parts in batches.items():
        errors = [apart(part) for part in parts]
        if near_ties is None and max(map(max, errors)) > tolerance:
            parts = [*parts, *(next_batch(size) for _ in range(_PARTS - len(parts)))]
            errors += [apart(part) for part in parts[len(errors) :]]
        largest = max(largest, *(float(part.max()) for part in errors))
        reason = reason or _fault(size, parts, errors, tolerance, near_ties)
    first, others = 1 if seen is None else min(BATCH, n), sorted(batches.keys() - {*last})
    tried = tuple(dict.fromkeys((first, *others, *last)))
    return BatchCheck(tried, largest, not (reason or attempts.refusal), attempts.refusal or reason)


def _fault(
    size: int,
    parts: Sequence[Sequence[int]],
    errors: list[NDArray[np.float64]],
    tolerance: float,
    near_ties: NearTies | None,
) -> str:
    """One clause on what is wrong at a batch size; empty where nothing is."""
    wrong = [(index, row) for part, error in zip(parts, errors, strict=True)
             for row, index in enumerate(part) if error[row] > tolerance]  # fmt: skip
    if not wrong:
        return ""
    total, worst = sum(map(len, parts)), max(float(error.max()) for error in errors)
    if not np.isfinite(worst):
        return f"at batch {size} an image gets logits that are not finite"
    apart = f"at batch {size} the same image gets logits that differ by {worst:.2g} of the largest"
    if near_ties is not None:
        strayed = {index for index, _ in wrong}
        return apart if strayed - near_ties(sorted(strayed), total) else ""
    rows = [row for _, row in wrong]
    of_one_row = max(map(rows.count, rows))
    return apart if 2 * len(wrong) > total or (of_one_row > 1 and 2 * of_one_row > len(parts)) else ""
