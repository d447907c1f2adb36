"""``fgvc-kit fit``: from images and a budget to the best model that was measured, checked and ready to ship."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options

Images = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A folder of class folders, a CSV list (path,label[,split]), NAME:FOLDER, elpv or textile."
    ),
]
FitOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder to write; the same command continues it. [default: runs/fit-DATA]"),
]
MaxTime = Annotated[str, typer.Option(help="For all of it: 90s, 15m or 1h; the first answer is finished anyway.")]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="latency=8ms, latency=50% (of dense INT8), flops=1G, top1=84% or drop=1; repeatable. [default: drop=1]",
    ),
]
FitModel = Annotated[str | None, typer.Option("--model", help="A timm model's name. [default: DINOv2's ViT-S/14]")]
Size = Annotated[int | None, typer.Option(min=1, help="Pixels a side. [default: what --max-time lets train]")]


def fit_verb(
    data: Images,
    target: options.Target = "openvino:cpu",
    budget: Limits = None,
    out: FitOut = None,
    max_time: MaxTime = "15m",
    model: FitModel = None,
    weights: options.Weights = None,
    image_size: Size = None,
    seed: options.Seed = 0,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """One command from images to a model you can ship: --budget latency=8ms, perhaps with --budget drop=1.

    Without a budget on time it is the fastest that loses at most a point of top-1 against the dense model.

    A first answer comes without training the backbone; then all layers are fine-tuned, one network is distilled for
    several image sizes and token counts, and searched, as far as --max-time allows. Everything is measured beside the
    dense model, dense INT8 and smaller images; what is best on val within the budget is in OUT/recommended with a
    script and a model card, whatever it is. Interrupted, the best so far stays, and the same command goes on. Exits 1
    where nothing keeps to the budget.
    """
    from tavt_kit.verbs.live import FitProgress
    from tavt_kit.workflows.fit import fit

    folder = out or Path("runs") / f"fit-{Path(data.partition(':')[2] or data).name}"
    with FitProgress() as progress:
        done = fit(
            data, folder, target=target, budget=budget or ("drop=1",), max_time=max_time, model=model, weights=weights,
            image_size=image_size, seed=seed, fresh=fresh, progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps(done.record))
    else:
        print_fit(done.record, done.folder)
    return 0 if done.recommended is not None else 1


def print_fit(record: Mapping[str, Any], folder: Path) -> None:
    """Five rows, one sentence of advice, and where things lie.

    Args:
        record: Body of ``fit.json``.
    """
    from tavt_kit.verbs.console import console_of, table_of
    from tavt_kit.workflows.run_model import recommended_file

    rows = []
    for role, index in record["shown"].items():
        row = record["rows"][index]
        val, test = (None if row[split] is None else f"{100 * row[split]['top1']:.1f}" for split in ("val", "test"))
        verdict = row["verdict"] if row["fits"] else "missed"
        rows.append((role, row["name"], val, test, f"{row['latency_ms']['p90']:.2f}", verdict))
    console_of().print(table_of(("", "model", "val %", "test %", "p90 ms", "budget"), rows, left=("model", "budget")))
    print(record["advice"])
    if "check" in record:
        print("check on {split}: {verdict}, {reason}".format(**record["check"]))
    if (file := recommended_file(folder, record)) is not None:
        print(f"ship:   {file.parent}   (python predict.py {file.name} photo.jpg)")
    print(f"report: {folder / 'report.html'}")
