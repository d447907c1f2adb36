"""What concerns a GPU, by one command: parity, speed, memory, distillation, latency table, search, export.

    make gpu                                                    # 8 minutes on a machine with an NVIDIA GPU
    python examples/studies/gpu.py --minutes 8 --out DIR        # the same
    python examples/studies/gpu.py --device cpu                 # a dry run: small, and what only CUDA has is named
    python examples/studies/gpu.py --bundle runs/gpu-bundle.zip # packages for a machine without a network

The steps (``gpu_steps.py``) come in the order of their value. Each has a limit of its own, runs in a process that is
killed at it, and is written to ``gpu.json`` as soon as it ends; one that fails says why, and the rest goes on. The same
command with the same ``--out`` goes on with what is missing. ``DIR`` gets ``gpu.json``, ``gpu.txt`` (the summary),
``gpu.log`` and the search's ``report.html``: flat, and small. Packages that are absent, or older than this project
allows, are taken from the bundle, which needs neither pip nor a network; this file itself needs only Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUNDLE = ROOT / "runs" / "gpu-bundle.zip"

STEPS: dict[str, float] = {
    "facts": 45, "tests": 150, "parity": 75,
    "bench base 448 bf16 b8": 60, "bench base 448 bf16 b1": 60, "bench base 448 bf16 b64": 60,
    "attention": 30, "memory": 45, "distillation": 130, "table": 70, "search": 110, "evaluation": 45, "training": 110,
    "bench base 448 bf16 b8 compile": 150, "bench base 224 bf16 b8": 60, "bench base 224 bf16 b1": 60,
    "bench large 448 bf16 b8": 60, "bench base 448 f16 b8": 60, "export": 120, "bench base 224 bf16 b64": 60,
    "bench large 448 bf16 b1": 60, "bench large 448 bf16 b64": 90, "bench large 224 bf16 b8": 60,
    "bench base 448 bf16 b1 compile": 150, "bench large 448 f16 b8": 60, "bench base 448 f16 b1": 60,
    "bench base 448 f16 b64": 60, "seeds": 400, "floors": 30,
}  # fmt: skip
"""Their limits in seconds, in the order of their value."""

ROOTS = ("timm", "pymoo", "jinja2", "typer", "rich", "safetensors",
         "pytest", "sortedcontainers", "psutil")  # fmt: skip
"""What the steps import; what these need comes along."""

COMPILED, PYTHONS = ("cffi", "hypothesis"), ("3.11", "3.12", "3.13", "3.14")
"""Small, and compiled for one Python each: pip fetches them for all of these."""

THERE = ("torch", "torchvision", "numpy", "scipy", "pillow", "triton", "setuptools", "matplotlib", "pandas",
         "cffi", "kiwisolver", "contourpy", "fonttools", "pydantic",
         "pydantic-core")  # fmt: skip
"""Compiled for one Python, or large: they are expected on the machine."""

_SLOWER = 4
"""Times their limits that a dry run may take."""

MINUTES = {"cuda": 8.0, "cpu": 30.0}

SPARED_S = 8.0
"""Less time than this begins no further step."""


class Worker:
    """The process that makes the steps, one after the other; a new one is started where it was killed or failed."""

    def __init__(self, given: argparse.Namespace, paths: list[str], log: Path) -> None:
        self._command = [sys.executable, str(HERE / "gpu_steps.py"), given.device, str(given.out)]
        paths = [str(ROOT), *paths, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, name: str, seconds: float) -> dict[str, Any]:
        """The step's answer; ``state`` is ``done``, ``skipped``, ``failed`` or ``stopped``."""
        if self._child is None:
            with self._log.open("ab") as log:
                self._child = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    env=self._environment, start_new_session=True,
                )  # fmt: skip
        assert self._child.stdin is not None and self._child.stdout is not None  # as asked for
        answer = b""
        try:
            self._child.stdin.write(f"{name}\n".encode())
            self._child.stdin.flush()
            if not select.select([self._child.stdout], [], [], seconds)[0]:
                self.end()
                return {"state": "stopped", "why": f"stopped at its limit of {seconds:.0f} s"}
            answer = self._child.stdout.readline()
        except BrokenPipeError:
            pass
        if not answer:
            code = self._child.wait()
            self.end()
            return {"state": "failed", "why": f"its process ended with exit code {code}; see gpu.log"}
        found: dict[str, Any] = json.loads(answer)
        if found["state"] == "failed":  # whose GPU may be in no state to go on
            self.end()
        return found

    def end(self) -> None:
        """Kill it, with whatever it started."""
        if self._child is None:
            return
        try:
            os.killpg(self._child.pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself, and left nobody
            pass
        with self._child:  # which waits, and closes its pipes
            self._child = None


def drive(given: argparse.Namespace) -> dict[str, Any]:
    """Make the steps that are missing, as far as the time goes.

    Returns:
        The record, as written.
    """
    end = time.monotonic() + 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "gpu.json"
    record = json.loads(file.read_text()) if file.is_file() else {"schema": "gpu", "version": 1, "steps": {}}
    if record.setdefault("device", given.device) != given.device:
        sys.exit(f"{file} is of --device {record['device']}, got {given.device}; choose another --out")
    steps: dict[str, Any] = record["steps"]
    asked = [name for name in STEPS if given.only in name]
    todo = [name for name in asked if name not in steps]
    todo += [name for name in asked if name in steps and steps[name]["state"] in ("failed", "stopped")]
    with tempfile.TemporaryDirectory(prefix="fgvc-kit-gpu-") as folder:
        worker = Worker(given, list(unpacked(given.packages, Path(folder))), given.out / "gpu.log")
        for name in todo:
            left = end - time.monotonic()
            if left < SPARED_S:
                break
            begin = time.monotonic()
            answer = worker.ask(name, min(STEPS[name] * (1 if given.device == "cuda" else _SLOWER), left))
            steps[name] = {**answer, "seconds": round(time.monotonic() - begin, 1)}
            write(file, json.dumps(record))
            write(given.out / "gpu.txt", summary(record))
            print(f"{name}: {answer['state']}, {steps[name]['seconds']} s {answer.get('why', '')}", flush=True)
        worker.end()
    return record


def write(file: Path, text: str) -> None:
    """The whole file, or the one that was there."""
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def summary(record: Mapping[str, Any]) -> str:
    """For people: a line for each step, and the lines that the steps say."""
    lines = [f"device {record['device']}"]
    for name in STEPS:
        one = record["steps"].get(name)
        if one is None:
            lines.append(f"- {name}: not run yet; run the same command again")
            continue
        lines.append(f"- {name}: {one['state']} ({one['seconds']} s){': ' + one['why'] if one.get('why') else ''}")
        lines += [f"    mocked: {text}" for text in one.get("mocked", [])]
        lines += [f"    {text}" for text in one.get("lines", [])]
    lines += ["", "goals:"]
    for one in record["steps"].values():
        lines += [f"- {_judged(*goal, record['device'] == 'cuda')}" for goal in one.get("goals", [])]
    return "\n".join(lines) + "\n"


def _judged(what: str, value: float, least: float, measured: bool) -> str:
    """A goal in a line; of one below 0 its negative is the most that is wanted."""
    wanted = f"at least {least:g}" if least >= 0 else f"at most {-least:g}"
    if not measured:
        return f"{what}: unmeasured ({wanted} wanted)"
    return (
        f"{what}: {value:.3g}, {'met' if (value >= least if least >= 0 else value <= -least) else 'NOT met'} ({wanted})"
    )


def pack(file: Path) -> None:
    """Write the bundle: a folder for each package, without what is compiled for one Python only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    bounds = _bounds()
    found = {one.metadata["Name"].lower(): one for name in ROOTS for one in _closure(name, set())}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in COMPILED:
            for python in PYTHONS:
                _pack_compiled(archive, name, python)
        for name, one in sorted(found.items()):
            archive.writestr(f"{name}/.least", bounds.get(name, ""))
            for entry in one.files or []:
                text, path = str(entry), Path(str(entry.locate()))
                compiled = path.suffix == ".so" and ".abi3." not in path.name
                if text.startswith("..") or "__pycache__" in text or "/tests/" in text or compiled:
                    continue
                if path.is_file():
                    archive.write(path, f"{name}/{text}")
    megabytes = file.stat().st_size / 1e6
    print(f"{file}: {len(found)} packages, {megabytes:.1f} MB")
    if megabytes > 60:
        sys.exit(f"a bundle has at most 60 MB, got {megabytes:.1f}; leave a package out of ROOTS")


def _pack_compiled(archive: zipfile.ZipFile, name: str, python: str) -> None:
    """A wheel of the version that is installed here, for another Python; none where pip finds none."""
    platforms = [f"--platform=manylinux{one}_x86_64" for one in ("_2_17", "_2_27", "_2_28", "2014")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    command += ["--implementation=cp", f"--python-version={python}", f"{name}=={distribution(name).version}"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "--dest", folder], capture_output=True, text=True)
        for wheel in Path(folder).glob("*.whl"):
            archive.writestr(f"{name}@{python}/.least", "")
            with zipfile.ZipFile(wheel) as content:
                for entry in content.namelist():
                    archive.writestr(f"{name}@{python}/{entry}", content.read(entry))
    if done.returncode:
        print(f"{name} for Python {python} is not in the bundle: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def _closure(name: str, seen: set[str]) -> Iterator[Distribution]:
    """A package and what it needs, extras left out."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen or key in THERE:
        return
    seen.add(key)
    try:
        one = distribution(name)
    except PackageNotFoundError:  # for another system
        return
    yield one
    for line in one.requires or []:
        requirement, _, condition = line.partition(";")
        if "extra" not in condition and (match := re.match(r"[\w.-]+", requirement)):
            yield from _closure(match[0], seen)


def _bounds() -> dict[str, str]:
    """Least versions of this project's own requirements."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {m[1].lower(): m[2] for line in listed if (m := re.match(r"([\w.-]+?)>=([\w.]+)", line))}


def unpacked(bundle: Path, folder: Path) -> Iterator[str]:
    """Folders for the path: of each package of the bundle that is absent here, or older than allowed."""
    if not bundle.is_file():
        return
    with zipfile.ZipFile(bundle) as archive:
        for name in sorted({entry.partition("/")[0] for entry in archive.namelist()}):
            package, _, python = name.partition("@")
            if python not in ("", f"{sys.version_info.major}.{sys.version_info.minor}"):
                continue
            if _is_enough(package, archive.read(f"{name}/.least").decode()):
                continue
            archive.extractall(folder, [one for one in archive.namelist() if one.startswith(f"{name}/")])
            yield str(folder / name)


def _is_enough(name: str, least: str) -> bool:
    """Whether the machine's own package serves."""
    try:
        found = distribution(name).version
    except PackageNotFoundError:
        return False
    return _numbers(found) >= _numbers(least)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--minutes", type=float, help="8 by default, of a dry run 30")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="", help="steps whose name holds this text")
    parser.add_argument("--packages", type=Path, default=BUNDLE, help="a bundle, taken where it is there")
    parser.add_argument("--bundle", type=Path, help="write a bundle, and do nothing else")
    given = parser.parse_args()
    if given.bundle is not None:
        pack(given.bundle)
        return 0
    given.out, given.minutes = given.out.resolve(), given.minutes or MINUTES[given.device]
    record = drive(given)
    print((given.out / "gpu.txt").read_text() if (given.out / "gpu.txt").is_file() else "no time for any step")
    return int(any(one["state"] == "failed" for one in record["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
