"""``bench `layers```: the time of each layer of every candidate, by a profile that is kept after the measuring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tavt_kit.core.part_names import part_words
from tavt_kit.errors import RecordError, TavtError

if TYPE_CHECKING:
    from tavt_kit.core.device import TargetDevice
    from tavt_kit.verbs.progress import Tell
    from tavt_kit.workflows.bench_things import Opened

__all__ = ["layer_tables", "layers_of", "refuse_targets", "refuse_unlayered"]

_ABREAST = 6
"""Candidates in one printed table."""


def refuse_targets(targets: Iterable[TargetDevice]) -> None:
    """Raise TargetError, before anything is opened, for a target that keeps no profile of single inferences."""
    from tavt_kit.runtimes.by_layer import refuse_unprofiled

    for target in targets:
        refuse_unprofiled(target)


def refuse_unlayered(opened: Sequence[Opened]) -> None:
    """Refuse before the measuring what could not be told apart after it.

    Raises:
        RecordError: A file does not say which layers it has.
    """
    for one in opened:
        if one.schedule is None:
            raise RecordError(
                f"{one.name} does not say which layers it has, because fgvc-kit did not export it; leave it out, or "
                "leave out `layers`"
            )


def layers_of(one: Opened, tell: Tell) -> Mapping[str, Any]:
    """The record of a candidate's time by layer; where there is none, of the reason."""
    from tavt_kit.bench.memory import FileJob
    from tavt_kit.runtimes.by_layer import layer_times

    assert one.schedule is not None  # refuse_unlayered
    tell(f"time by layer of {one.name}", None)
    lengths = one.job.lengths if isinstance(one.job, FileJob) else None
    try:
        return layer_times(one.source, one.session.target, one.images, one.schedule, lengths).as_record()
    except TavtError as error:  # what was measured before is worth keeping
        return {"reason": str(error)}


def layer_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """Tables for people: a row for each part, a column for each candidate that has any.

    Args:
        rows: The candidates of ``bench.json``.
    """
    known = [row for row in rows if "parts_ms" in row.get("layers", {})]
    for start in range(0, len(known), _ABREAST):
        yield _table(known[start : start + _ABREAST])


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False)
    table.add_column("ms by layer", no_wrap=True)
    for row in rows:
        table.add_column(escape(row["name"]), justify="right", overflow="fold")
    for name in dict.fromkeys(name for row in rows for name in row["layers"]["parts_ms"]):
        table.add_row(part_words(name), *(_part(row["layers"], name) for row in rows))
    table.add_section()
    table.add_row("sum", *(f"{row['layers']['sum_ms']:.3g}" for row in rows))
    table.add_row("profiled run", *(f"{row['layers']['run_ms']:.3g}" for row in rows))
    table.add_row("median", *(f"{row['latency_ms']['median']:.3g}" for row in rows))
    table.add_row("sum is off by", *(_off(row) for row in rows))
    return table


def _part(layers: Mapping[str, Any], name: str) -> str:
    """Its milliseconds, and its share of the sum."""
    ms = layers["parts_ms"].get(name)
    return "" if ms is None else f"{ms:.3g} {100 * ms / layers['sum_ms']:4.1f} %"


def _off(row: Mapping[str, Any]) -> str:
    """From the median of the plain runs."""
    return f"{100 * (row['layers']['sum_ms'] / row['latency_ms']['median'] - 1):+.1f} %"
