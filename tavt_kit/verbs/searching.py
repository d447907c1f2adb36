"""``fit``, ``search`` and ``show``: from images or a model to what is best within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.verb import Answer, verb


@verb
def fit_verb(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of class folders, a CSV list (path,label[,split]), NAME:FOLDER, elpv or textile.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The folder to write; the same command continues it. [default: runs/fit-DATA]"
        ),
    ] = None,
    **given: Any,
) -> Answer:
    """Exits 1 where nothing keeps to the budget."""
    from tavt_kit.workflows.fit import fit

    result = fit(data, out or Path("runs") / f"fit-{Path(data.partition(':')[2] or data).name}", **given)
    code = 0 if result.recommended is not None else 1
    return Answer(result.record, lambda: _print_fit(result.record, result.folder), code)


def _print_fit(record: Mapping[str, Any], folder: Path) -> None:
    """Of the body of ``fit.json`` five rows, one sentence of advice, and where things lie."""
    from tavt_kit.verbs.console import print_table
    from tavt_kit.workflows.run_model import recommended_file

    rows = []
    for role, index in record["shown"].items():
        row = record["rows"][index]
        val, test = (None if row[split] is None else f"{100 * row[split]['top1']:.1f}" for split in ("val", "test"))
        verdict = row["verdict"] if row["fits"] else "missed"
        rows.append((role, row["name"], val, test, f"{row['latency_ms']['p90']:.2f}", verdict))
    print_table(("", "model", "val %", "test %", "p90 ms", "budget"), rows, left=("model", "budget"))
    print(record["advice"])
    if "search" in record:
        print(record["search"]["said"])
    if "check" in record:
        print("check on {split}: {verdict}, {reason}".format(**record["check"]))
    if (file := recommended_file(folder, record)) is not None:
        print(f"ship:   {file.parent}   (python predict.py {file.name} photo.jpg)")
    print(f"report: {folder / 'report.html'}")


@verb
def search_verb(model: options.Run, out: options.Out, **given: Any) -> Answer:
    """The fastest model that loses at most half a point: --budget drop=0.5 --target openvino:cpu.

    Exits 1 where the chosen schedule is not proven to keep to the budget, 2 where no schedule can.
    """
    from tavt_kit.core.budget import Verdict
    from tavt_kit.verbs.tables import print_front
    from tavt_kit.workflows.search import search

    result = search(model, out=out, **given)
    code = 0 if result.verdict is Verdict.PASS else 1
    return Answer(result.record, lambda: print_front(result.record, folder=out), code)


@verb
def show_verb(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of search or fit, or its front.json.")],
    **given: Any,
) -> Answer:
    """The schedule of the marked candidate is the last line, ready for --schedule; of one with other genes its --pick
    for fgvc-kit export. Exits 1 where nothing on the front keeps to --pick.
    """
    from tavt_kit.core.configuration import Configuration
    from tavt_kit.core.records import reading
    from tavt_kit.verbs.tables import print_front
    from tavt_kit.workflows.report import show

    shown = show(run, **given)

    def tell() -> None:
        if shown.kind == "fit":
            with reading(shown.folder / "fit.json"):
                _print_fit(shown.record, shown.folder)
            return
        print_front(shown.record, folder=shown.folder, marked=-1 if shown.marked is None else shown.marked)
        if shown.candidate is not None:
            configuration = Configuration.from_record(shown.candidate)
            is_plain = configuration.choice is configuration.schedule
            print(configuration if is_plain else f"--pick {shown.marked}")

    if shown.kind == "fit" or not any(given.values()):
        return Answer(shown.record, tell)
    return Answer({"picked": shown.candidate}, tell, 1 if shown.candidate is None else 0)
