"""What verbs print: the report's tables and sentences, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table as Drawn

    from tavt_kit.reports.blocks import Block, Missing, Section, Table
    from tavt_kit.reports.records import Records


def print_sections(
    kind: str, file: Path, body: Mapping[str, Any], *make: Callable[[Records], Section | Missing | None]
) -> None:
    """What a report says of one record, by the functions of its sections."""
    from tavt_kit.reports.records import RecordFile, Records

    records = Records({kind: (RecordFile(file, body),)}, folders=(str(file.parent),))
    for section in make:
        print_section(section(records))


def print_section(section: Section | Missing | None) -> None:
    """Tables, facts and sentences on stdout; images and what is folded are for the page, and nothing is missing."""
    from tavt_kit.reports.blocks import Section

    print_blocks(section.blocks if isinstance(section, Section) else ())


def print_blocks(blocks: Iterable[Block]) -> None:
    """As ``print_section``."""
    from tavt_kit.reports.blocks import Code, Facts, Table, Text
    from tavt_kit.verbs.console import console_of

    console = console_of(240)
    for block in blocks:
        if isinstance(block, Text):
            print("".join(part.text if isinstance(part, Code) else part for part in block.parts))
        elif isinstance(block, Facts):
            for name, value in block.rows:
                print(f"{name}: {value.text if isinstance(value, Code) else value}")
        elif isinstance(block, Table) and not block.folded:
            drawn = _drawn(block)
            wide = console.measure(drawn, options=console.options.update_width(1000)).maximum
            console.print(drawn if wide <= console.width else _drawn(block, small=False))
            print(block.caption)


def _drawn(table: Table, *, small: bool = True) -> Drawn:
    """As rich has it, a row marked by ``>``; without what is ``small`` numbers keep to one line."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as Drawn

    drawn = Drawn(show_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        title = f"{column.title}\n{column.hint}".strip() if small else column.title
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        least = None if drawn.columns else 12
        drawn.add_column(escape(title), justify=justify, no_wrap=column.numeric, overflow="fold", min_width=least)
    for index, row in enumerate(table.rows):
        cells = [escape(f"{cell.text} {cell.small}".strip() if small else cell.text) for cell in row]
        drawn.add_row(f"> {cells[0]}" if index in table.strong else cells[0], *cells[1:])
    return drawn


def print_front(body: Mapping[str, Any], *, folder: Path, marked: int | None = None) -> None:
    """The answer of a ``front.json``, its candidates and baselines, and how the search went.

    The candidate ``marked`` is set off, of an index below 0 none; the chosen one by default.
    """
    from tavt_kit.reports.answer import answer
    from tavt_kit.reports.blocks import Section, Table, Text
    from tavt_kit.reports.front import convergence_section, front_section
    from tavt_kit.reports.records import RecordFile, Records

    records = Records({"front": (RecordFile(folder / "front.json", body),)}, folders=(str(folder),))
    front = front_section(records)
    if marked is not None and isinstance(front, Section) and isinstance(table := front.blocks[0], Table):
        front = replace(front, blocks=(replace(table, strong=frozenset({marked})), *front.blocks[1:]))
    print_section(front)
    print_section(convergence_section(records))
    said = answer(records)
    print_blocks([Text.of(f"{said.verdict}: {said.lead}."), said.sentence, *said.more])
    if said.command is not None:
        print("{}: {}".format(*said.command))
    if (folder / "report.html").is_file():
        print(folder / "report.html")


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """A table of checks on stdout, and the reason where one is no PASS; all figures are in the record."""
    from tavt_kit.reports.correctness import checks_section

    print_sections("check", Path("check.json"), {"checks": checks}, checks_section)
