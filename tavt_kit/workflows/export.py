"""export: a model at a schedule, as files that provably kept its accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, overload

from tavt_kit.core.artifact_card import PIXEL_ORDERS, UNPROVEN
from tavt_kit.core.budget import Verdict
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import licence_sentence
from tavt_kit.core.parsing import bounded, several
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.errors import ExportError, OutputError, ParameterError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.check import FileCheck
from tavt_kit.workflows.run_model import Given, RunResult, images_of, load_given, recommended_of, run_of_fit
from tavt_kit.workflows.schedules import model_for, precision_for, presets_for, schedules_for


@dataclass(frozen=True, slots=True, repr=False)
class ExportedFile:
    """One file of an export: where it lies, its fate, and its check, of a switchable file one for each preset.

    Its name ends in ``.unproven`` where too few images decided, and nothing lies there where it was ``refused``. The
    record is everything, as ``exported.json`` has it.
    """

    path: Path
    status: str
    verdict: Verdict
    checks: tuple[FileCheck, ...]
    record: Mapping[str, Any] = field(hash=False)

    @property
    def check(self) -> FileCheck:
        """Its check; of a switchable file the worst of its presets'."""
        return next(check for check in self.checks if check.verdict == self.verdict)

    @property
    def format(self) -> str:
        """onnx, openvino or safetensors."""
        return str(self.record["format"])

    @property
    def precision(self) -> str:
        """The precision of its weights."""
        return str(self.record["precision"])

    def __fspath__(self) -> str:
        """Where it lies, so that it can be given wherever a path can."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"<ExportedFile {self.path}: {self.status}, {self.verdict}>"


@dataclass(frozen=True, slots=True, repr=False)
class ExportResult(RunResult, Sequence[ExportedFile]):
    """The files of an export and their checks, in the order of schedules, formats and precisions.

    The record is ``exported.json``, where other files of the folder may stand too; ``licence`` is a sentence on
    commercial use, or None.
    """

    files: tuple[ExportedFile, ...]
    checks: tuple[FileCheck, ...]
    licence: str | None

    @property
    def settled(self) -> bool:
        """Whether every file got its final name."""
        return all(file.status == "final" for file in self.files)

    @overload
    def __getitem__(self, index: int) -> ExportedFile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ExportedFile]: ...
    def __getitem__(self, index: int | slice) -> ExportedFile | Sequence[ExportedFile]:
        return self.files[index]

    def __len__(self) -> int:
        return len(self.files)

    def to_frame(self) -> Frame:
        """A line for each file: its name, format, precision, status, verdict, bytes and accuracy."""
        return frame([
            {
                "file": file.record["file"], "format": file.format, "precision": file.precision, "status": file.status,
                "verdict": str(file.verdict), "bytes": file.record["bytes"], "top1": file.check.top1.value,
                "source_top1": file.check.source_top1.value,
            }
            for file in self.files
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"<ExportResult {self.folder}: {', '.join(f'{file.path.name}: {file.verdict}' for file in self.files)}>"


@bounded
def export(
    run: Given,
    out: Path | str | None = None,
    *,
    schedule: str | Choice | Sequence[str | Choice] | None = None,
    pick: str | None = None,
    switchable: bool = False,
    format: str | Sequence[str] | None = None,
    precision: str | Sequence[str] | None = None,
    quantizer: str | None = None,
    smooth_quant: str = "both",
    preprocessing: str | None = None,
    input_order: str = "nhwc:rgb",
    bundle: str | Sequence[str] | None = None,
    web_runtime: Path | str | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    max_drop: float = 0.5,
    calibrate: int = 300,
    compare_dense: bool = True,
    accept_inconclusive: bool = False,
    unlabelled: str | Path | None = None,
    target: str | TargetDevice | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write a model as ONNX, OpenVINO or safetensors, and check every file on the same real images.

    The schedule is frozen into the file unless it is ``switchable``; the batch stays free; labels and preprocessing
    travel inside. An f32 file must give its source's logits; others may lose ``max_drop`` points of top-1, decided by
    the paired 95 % interval. Where labelled images are too few for that, how it answers the other splits and
    ``unlabelled`` images decides whether to take it (docs/check.md). A file that fails is removed; one that is not
    taken is kept as ``*.unproven``. A file that is there already, made and checked in the very same way, is kept.

    Args:
        run: A run folder of train, distill or search, or a wrapped model with its card; one that ``load_model`` read
            knows its folder.
        out: The folder to write; by default ``export`` in the run's folder.
        schedule: One schedule or several: ``dense``, ``taper:0.2``, ``stages:0.5``, or counts such as
            ``197x4,150x4,90x4``; with names if you like (``fast=taper:0.3``).
        pick: Candidate of the search's front instead: fast, balanced, accurate, or an index from 0. Without both,
            what the search chose.
        switchable: Whether one file holds every schedule, the counts as an input, with the presets fast, balanced and
            accurate from the front, or those that ``schedule`` names.
        format: onnx, openvino or safetensors, also with commas between them; openvino by default.
        precision: f32, f16, bf16 or int8, also with commas between them; f32 by default, or as a joint search chose.
        quantizer: nncf or onnxruntime; by default all that suit, of which the best is kept.
        smooth_quant: NNCF's SmoothQuant: both are tried, on or off.
        preprocessing: outside or inside: whether the files take uint8 images of any size and resize, crop and normalise
            them; outside by default, inside for a ``bundle``.
        input_order: Layout and colours of these images: nhwc:rgb, nhwc:bgr, nchw:rgb or nchw:bgr.
        bundle: Folder to write beside the files, or several: onnx-web (a page for browsers), ovms (OpenVINO Model
            Server) or triton.
        web_runtime: Folder with the files of onnxruntime-web for a page; by default npm fetches them.
        data: Source of the images; by default what the run was trained on.
        split: Split of the check's images; test if there is one, else val.
        limit: Most images of the check.
        max_drop: Points of top-1 that a file narrower than f32 may lose.
        calibrate: Training images that int8 is calibrated on.
        compare_dense: Whether to compare with the dense model too.
        accept_inconclusive: Whether a file whose check has too few images to decide is taken.
        unlabelled: Folder of images without labels: the more they are, the smaller the loss that can be ruled out where
            labelled ones are few.
        target: Target of the files for their check; onnxruntime:cpu by default, openvino:cpu of an ``.xml``.
        fresh: Whether to make again what is there.
        progress: Told how far things are.

    Raises:
        ParameterError: Parameters contradict each other.
        ExportError: An unknown format or precision, or a converter or quantizer refuses the model.
        ScheduleError: The schedule does not fit the model.
        RecordError: There is no run, no front to pick from, or ``out`` holds files made in another way.
        DataError: The images are of other classes, or one cannot be read.
        OutputError: ``out`` cannot be written, or has too little space left.

    Example:
        >>> files = export("runs/birds", schedule="taper:0.2", format="onnx")  # doctest: +SKIP
        >>> files[0].check.verdict  # doctest: +SKIP
        <Verdict.PASS: 'PASS'>
    """
    from tavt_kit.checks import Gate
    from tavt_kit.data.preprocess import Preprocessing
    from tavt_kit.exporters.bundles import FORMATS, require_web_runtime, write_bundle
    from tavt_kit.exporters.export import export as write_files
    from tavt_kit.exporters.export import read_exported
    from tavt_kit.exporters.options import SWITCHABLE, Int8Options, Plan, forms_of
    from tavt_kit.exporters.preprocessing import refuse_outside_alone
    from tavt_kit.runtimes import check_available

    progress = progress or Silent()
    web_runtime, unlabelled = (None if path is None else Path(path) for path in (web_runtime, unlabelled))
    bundles = tuple(dict.fromkeys(word.strip() for text in several(bundle) for word in text.split(",")))
    if unknown := [kind for kind in bundles if kind not in FORMATS]:
        raise ParameterError(f"a bundle is {', '.join(FORMATS)}, got {unknown[0]!r}")
    usual = dict.fromkeys(FORMATS[kind][0] for kind in bundles) or ("openvino",)
    formats, precisions = several(format) or tuple(usual), several(precision)
    for kind in bundles:
        if not set(FORMATS[kind]) & set(",".join(formats).split(",")):
            raise ParameterError(f"a bundle for {kind} holds {' or '.join(FORMATS[kind])} files, got {formats}")
    if "onnx-web" in bundles:
        require_web_runtime(web_runtime)
    forms_of(formats, precisions or ["f32"])  # what is not written at all is refused before a model is read
    where = preprocessing or ("inside" if bundles else "outside")
    if where == "outside" and "onnx-web" in bundles:
        raise ParameterError("a page gives the file its images as they are; leave `preprocessing` out")
    pixels = _pixels(where, input_order, formats)
    int8 = Int8Options(quantizer, smooth_quant)
    device = TargetDevice.parse(target) if isinstance(target, str) else target
    if device is not None:
        check_available(device)
    if pick is None and (several(schedule) or switchable) and (begun := run_of_fit(run)) is not None:
        out = Path(str(run)) / "export" if out is None else out
        run = begun
    if (fitted := recommended_of(run, progress, pick)) is not None:
        out = Path(run) / "export" if out is None and isinstance(run, str | PathLike) else out
        schedule = schedule or fitted.configuration.choice
        run, pick = fitted.run, None
    model, given = load_given(run), several(schedule)
    folder = model.folder
    if out is None and folder is None:
        raise OutputError("a model that lies in no run folder needs a folder for its files; give `out`")
    if switchable and pick is not None:
        raise ParameterError(f"a switchable file takes every preset of the front; leave out `pick={pick}`")
    chosen = presets_for(folder, model, given) if switchable else schedules_for(folder, model, given, pick)
    if not (given or switchable) and pick is None and folder is not None and (folder / "front.json").is_file():
        progress.say(f"{folder} is exported under {chosen['']}, which its search chose")
    # A model in hand may not be what its folder holds any more, so it is not read from there at another size.
    model = model_for(folder if isinstance(run, str | PathLike) else None, model, chosen)
    if pixels:
        refuse_outside_alone(Preprocessing.from_record(model.require_card().preprocessing))
    wanted = precisions or (precision_for(chosen),)
    schedules = {label: Configuration.of(choice).schedule for label, choice in chosen.items()}
    try:
        forms = forms_of(formats, wanted, [SWITCHABLE] if switchable else list(schedules))
    except ExportError as error:
        if precisions or wanted == ("f32",):  # a precision that the user, or nobody, has chosen
            raise
        raise ExportError(f"{error}; the search chose {wanted[0]}, give `precision` for another") from None
    plan = Plan(
        forms=forms, gate=Gate(drop=max_drop / 100), split=split, limit=limit, calibrate=calibrate, dense=compare_dense,
        accept_inconclusive=accept_inconclusive, target=device, int8=int8, pixels=pixels, unlabelled=unlabelled,
    )  # fmt: skip
    images = images_of(folder, data)
    destination = Path(out) if out is not None else Path(str(folder)) / "export"
    progress.update(f"exporting {', '.join(map(str, chosen.values()))}")
    entries, records = write_files(
        model, schedules, images, destination, plan, run=str(folder or ""), fresh=fresh, progress=progress
    )
    checks, files = [FileCheck.from_record(record) for record in records], []
    for entry in entries:
        path = destination / f"{entry['file']}{UNPROVEN if entry['status'] == 'unproven' else ''}"
        # A check of a switchable file's preset is named ``FILE (PRESET)``.
        own = tuple(check for check in checks if check.artifact.partition(" (")[0] == entry["file"])
        files.append(ExportedFile(path, entry["status"], Verdict(entry["verdict"]), own, entry))
    licence = licence_sentence((*model.require_card().licences, images.licence))
    for kind in bundles:
        models = [file.path for file in files if file.status == "final" and file.format in FORMATS[kind]]
        if not models:
            progress.say(f"no bundle for {kind}: it holds files that passed their check, and none did")
            continue
        progress.update(f"writing the bundle for {kind}")
        progress.say(write_bundle(kind, models, destination, web_runtime)[1])
    return ExportResult(destination, read_exported(destination), tuple(files), tuple(checks), licence)


def _pixels(preprocessing: str, order: str, formats: Sequence[str]) -> str | None:
    """The order of the images that files prepare themselves; None where that stays outside."""
    if preprocessing not in ("inside", "outside"):
        raise ParameterError(f"`preprocessing` is outside or inside of the files, got {preprocessing!r}")
    if order not in PIXEL_ORDERS:
        raise ParameterError(f"`input_order` is {', '.join(PIXEL_ORDERS)}, got {order!r}")
    if preprocessing == "outside":
        return None
    if "safetensors" in formats:
        raise ParameterError("safetensors cannot hold the preprocessing; leave `preprocessing` outside")
    return order
