"""The flags that ``train`` and ``distill`` share: how a run is carried out, apart from what it optimises."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Accumulation",
    "AllowSmallerBatch",
    "Device",
    "Ema",
    "EvaluateEvery",
    "Keep",
    "Patience",
    "Precision",
    "SaveEvery",
    "SelectBy",
]

Precision = Annotated[
    str | None,
    typer.Option(help="f32, bf16 or f16. [default: bf16 where the processor multiplies it faster, else f32]"),
]
Accumulation = Annotated[
    int | None, typer.Option(help="Micro-batches that a batch is computed in, one after the other. [default: 1]")
]
Ema = Annotated[
    float | None,
    typer.Option(help="Evaluate and write averaged weights, with a decay such as 0.999. [default: the recipe's]"),
]
EvaluateEvery = Annotated[
    int | None,
    typer.Option(help="Updates between evaluations on val, of which the best is written. [default: none]"),
]
SelectBy = Annotated[
    str | None,
    typer.Option("--metric", help="What is best: top1, top5, macro_f1, recall[CLASS] or loss. [default: top1]"),
]
Patience = Annotated[
    int | None, typer.Option(help="Stop after so many evaluations in a row without a better one. [default: never]")
]
Keep = Annotated[int | None, typer.Option(help="States kept to continue from, the newest ones. [default: 1]")]
AllowSmallerBatch = Annotated[
    bool, typer.Option("--allow-smaller-batch", help="Where memory runs out, compute fewer pictures at once.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N]. [default: a GPU if there is one]")]
SaveEvery = Annotated[str, typer.Option(help="Time between two saved states.")]
