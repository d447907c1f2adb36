"""A million images are listed in seconds, without a million of anything else in memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIST = """
import json, resource, sys, time
from tavt_kit.data import load_images
begin = time.process_time()
images = load_images(sys.argv[1])
print(json.dumps([len(images), time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


@pytest.mark.slow
def test_a_million_files_are_listed_within_thirty_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    for split, each in (("train", 800), ("val", 100), ("test", 100)):
        for kind in range(1000):
            folder = tmp_path / split / f"class {kind:04d}"
            folder.mkdir(parents=True)
            for image in range(each):
                (folder / f"{image:05d}.jpg").touch()
    shown = subprocess.run([sys.executable, "-c", LIST, tmp_path], capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)  # pytest would keep the millions of the last three runs
    count, seconds, megabytes = json.loads(shown.stdout)
    assert count == 1_000_000 and seconds < 30 and megabytes < 1000
