"""push and pull: a run, or what a fit recommends, to a repository of the Hugging Face hub, and back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE, ModelCard, read_card
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import make_folder, read_record, reading
from tavt_kit.errors import CheckpointError, RecordError, first_line
from tavt_kit.workflows.run_model import FIT_FILE

_FILES = (CARD_FILE, WEIGHTS_FILE, "front.json", "predict.py", "README.md", "*.xml", "*.bin", "*.onnx", "*.weights")
"""What goes over the network: a split and checks name images of their owner, and stay."""


def push(thing: str | PathLike[str], repository: str, *, private: bool = True, progress: Progress | None = None) -> str:
    """Upload a run folder, or what a fit recommends, with a model card that has its figures.

    Args:
        thing: Run folder, or a fit's.
        repository: ``OWNER/NAME`` on the hub; it is made where it is not there. ``HF_TOKEN`` says who you are.
        private: Whether a new repository is seen by its owner alone.
        progress: Told what is done.

    Returns:
        Its address.

    Raises:
        RecordError: There is no run, or the fit recommends nothing.
        CheckpointError: The hub refuses, or cannot be reached.
    """
    folder = Path(thing)
    fit = read_record(folder / FIT_FILE, "fit") if (folder / FIT_FILE).is_file() else None
    source = folder if fit is None else folder / "recommended"
    files = sorted({file for pattern in _FILES for file in source.glob(pattern)})
    if not any(file.name == CARD_FILE or file.suffix in (".xml", ".onnx") for file in files):
        raise RecordError(
            f"{folder} holds no model to push; give a run folder, or that of a fit that recommends a file"
        )
    (progress or Silent()).update(f"pushing {source} to {repository}")
    with tempfile.TemporaryDirectory(prefix="fgvc-kit-push-") as temporary:
        for file in files:
            shutil.copyfile(file, Path(temporary) / file.name)
        card = Path(temporary) / "README.md"
        said = card.read_text(encoding="utf-8") if card.is_file() else _said(read_card(source))
        card.write_text(f"---\n{_facts(folder, repository, fit)}\n---\n\n{said}", encoding="utf-8")
        with _hub(repository) as api:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=temporary, commit_message="fgvc-kit push")
    return str(address)


def pull(repository: str, out: Path | str, *, revision: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch what ``push`` uploaded, or any repository of that layout; nothing in it is run.

    Args:
        repository: ``OWNER/NAME`` on the hub.
        out: The folder to write: a run folder, or one with an exported file.
        revision: Commit, tag or branch; by default the newest.
        progress: Told what is done.

    Returns:
        The exported file, or the run folder.

    Raises:
        CheckpointError: The hub refuses or cannot be reached, or the repository holds no model of this kit.
        OutputError: ``out`` cannot be written.
    """
    folder = make_folder(Path(out))
    (progress or Silent()).update(f"pulling {repository}")
    with _hub(repository) as api:
        api.snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=list(_FILES))
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    exported = next(folder.glob("*.xml"), None) or next(folder.glob("*.onnx"), None)
    if exported is None and not (folder / CARD_FILE).is_file():
        raise CheckpointError(f"{repository} holds no model of this kit; give one that `fgvc-kit push` uploaded")
    return exported or folder


@contextmanager
def _hub(repository: str) -> Iterator[Any]:
    """The hub's client; each layer under it raises its own, which becomes one sentence."""
    from huggingface_hub import HfApi

    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="tavt-kit")
    except Exception as error:
        raise CheckpointError(f"the hub did not take or give {repository}: {first_line(error)}") from error


def _said(card: ModelCard) -> str:
    licences = [f"* {entry.name}: {entry.licence} ({entry.source})" for entry in card.licences] or ["* not known"]
    said = f"A run of fgvc-kit: `fgvc-kit pull` fetches it, `fgvc-kit eval` and `predict` run it.\n\n{card.provenance}"
    parts = (f"# {card.name}", said, f"Classes: {', '.join(card.classes)}.", "## Licences of weights and images")
    return "\n\n".join([*parts, "\n".join(licences) + "\n"])


def _facts(folder: Path, repository: str, fit: Mapping[str, Any] | None) -> str:
    """The head of the card: what the hub shows and searches, with the figures of ``fit.json`` or ``eval.json``."""
    from huggingface_hub import EvalResult, ModelCardData

    data, figures = "", dict[str, float]()
    if fit is not None:
        with reading(folder / FIT_FILE):
            row, data = fit["rows"][fit["recommended"]], str(fit["data"]["name"])
            figures = {f"top-1 ({split})": row[split]["top1"] for split in ("val", "test") if row[split] is not None}
            figures[f"latency p90, ms ({fit['target']['runtime']})"] = row["latency_ms"]["p90"]
    elif (file := folder / "eval.json").is_file():
        with reading(file):
            record = read_record(file, "eval")
            top1 = Accuracy.from_record(record["top1"])
            data, figures = str(record["data"]), {f"top-1 ({top1.split})": top1.value}
    results = [
        EvalResult("image-classification", data, data, name, value, metric_name=name) for name, value in figures.items()
    ]
    return str(ModelCardData(
        library_name="tavt-kit", pipeline_tag="image-classification", tags=["fgvc-kit"],
        model_name=repository.partition("/")[2] if results else None, eval_results=results or None,
    ).to_yaml())  # fmt: skip
