"""Bundles: what lies in them, what onnxruntime and OpenVINO say of their models, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.artifact_card import changed_since_check, read_metadata
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.errors import ExportError, MissingDependency, ParameterError
from tavt_kit.exporters import bundles
from tavt_kit.exporters.bundles import WEB_FILES, require_web_runtime
from tavt_kit.runtimes import open_file
from tavt_kit.workflows.export import ExportResult, export
from tests.exporters.test_preprocessing import photo
from tests.reports.browser import Tab, browser, find_browser
from tests.verbs.tiny import CLASSES, write_images, write_run
from tests.workflows.told import Told

SCHEDULE = (14, 8, 5)
PRESETS = {"small": SCHEDULE, "large": (17, 9, 8)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_images(folder / "data")
    write_run(folder / "run", depth=3)
    return folder


def written(run: Path, out: Path, **more: Any) -> ExportResult:
    return export(run / "run", out, **{"schedule": ",".join(map(str, SCHEDULE)), "data": run / "data", **more})


def logits(path: Path, images: Any) -> Any:
    card = read_metadata(path)
    assert changed_since_check(path) == ""
    return open_file(path, card.own_target(path), card.lengths)(images)


@pytest.mark.slow
def test_servers_find_a_version_of_each_model(run: Path) -> None:
    told = Told()
    files = written(run, run / "static", bundle=["ovms", "triton"], progress=told)
    assert [file.format for file in files] == ["openvino", "onnx"] and files.settled
    assert sum("untried" in sentence for sentence in told.said) == 2
    pixels = np.asarray(photo((50, 70), 0))[None]
    expected = logits(files[0].path, pixels)
    served = run / "static" / "ovms"
    entries = json.loads((served / "config.json").read_text())["model_config_list"]
    assert [entry["config"]["base_path"] for entry in entries] == ["/models/model-f32-xml"]
    # What a check of it ran; by itself OpenVINO takes bf16 where the CPU has it.
    assert entries[0]["config"]["plugin_config"] == {"INFERENCE_PRECISION_HINT": "f32"}
    assert {file.name for file in (served / "model-f32-xml" / "1").iterdir()} == {"model.bin", "model.xml"}
    np.testing.assert_array_equal(logits(served / "model-f32-xml" / "1" / "model.xml", pixels), expected)
    served = run / "static" / "triton"
    assert {folder.name for folder in served.iterdir()} == {"model-f32-onnx", "model-f32-xml"}
    for name, backend, file, batch in (
        ("model-f32-onnx", "onnxruntime", "model.onnx", ""),
        ("model-f32-xml", "openvino", "model.xml", "-1, "),  # that backend refuses all but the largest batch
    ):
        text = (served / name / "config.pbtxt").read_text()
        config = read_config(text)
        assert (config["name"], config["backend"], config["default_model_filename"]) == (name, backend, file)
        assert config["data_type"] == ["TYPE_UINT8", "TYPE_FP32"]
        assert config["dims"] == [f"{batch}-1, -1, 3", f"{batch}{len(CLASSES)}"]
        assert ("max_batch_size: 0" in text, "dynamic_batching" in text) == (bool(batch), not batch)
        assert (served / name / "labels.txt").read_text().split() == list(CLASSES)
        np.testing.assert_allclose(logits(served / name / "1" / file, pixels), expected, atol=1e-3)


def read_config(text: str) -> dict[str, Any]:
    """What config.pbtxt says: checked by Triton's own message where its client is installed."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        pass
    else:
        parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (parsed.max_batch_size > 1) == parsed.HasField("dynamic_batching") == (parsed.backend == "onnxruntime")
    found: dict[str, Any] = dict(re.findall(r'^(\w+): "(.*)"$', text, re.MULTILINE))
    lists = {"data_type": re.findall(r"data_type: (\w+)", text), "dims": re.findall(r"dims: \[(.*)\]", text)}
    return found | lists


@pytest.mark.slow
def test_each_preset_of_a_switchable_file_is_a_model_that_can_be_batched(run: Path) -> None:
    given = [f"{name}={','.join(map(str, counts))}" for name, counts in PRESETS.items()]
    files = written(run, run / "presets", schedule=given, switchable=True, bundle="triton,ovms",
                    format=["onnx", "openvino"])  # fmt: skip
    assert files.settled
    pixels = np.stack([np.asarray(photo((50, 70), seed)) for seed in range(3)])
    for file in files:
        session = open_file(file.path, read_metadata(file.path).own_target(file.path), SCHEDULE)
        for name, counts in PRESETS.items():
            served = run / "presets" / "triton" / f"{file.path.name.replace('.', '-')}-{name}"
            path = served / "1" / f"model{file.path.suffix}"
            assert "lengths" not in (served / "config.pbtxt").read_text()
            assert read_metadata(path).schedule.counts == counts and not read_metadata(path).is_switchable
            np.testing.assert_allclose(logits(path, pixels), session.at(counts)(pixels), atol=1e-5)
    listed = json.loads((run / "presets" / "ovms" / "config.json").read_text())["model_config_list"]
    assert [entry["config"]["name"] for entry in listed] == [f"model-switchable-f32-xml-{name}" for name in PRESETS]


def test_what_cannot_be_bundled_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, said in (
        ({"bundle": "torchserve"}, "a bundle is onnx-web, ovms, triton, got 'torchserve'"),
        ({"bundle": "ovms", "format": "onnx"}, "a bundle for ovms holds openvino files"),
    ):
        with pytest.raises(ParameterError, match=said):
            written(run, tmp_path / "none", **more)
    with pytest.raises(ExportError, match=f"lacks {WEB_FILES[0]}"):
        written(run, tmp_path / "none", bundle="onnx-web", web_runtime=tmp_path)
    for name in WEB_FILES:
        (tmp_path / name).touch()
    with pytest.raises(ParameterError, match="leave `preprocessing` out"):
        written(run, tmp_path / "none", bundle="onnx-web", preprocessing="outside", web_runtime=tmp_path)
    monkeypatch.setattr(bundles.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependency, match=r"npm is not installed; install it, or give `web_runtime`"):
        require_web_runtime(None)
    assert not (tmp_path / "none").exists()


def test_npm_that_fetches_nothing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "npm"
    script.write_text("#!/bin/sh\necho 'npm error network is unreachable' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ExportError, match=r"\(npm error network is unreachable\); try again with a network, or give"):
        bundles._copy_web_runtime(tmp_path / "ort", None)


# ------------------------------------------------------------------------------------------------ the page in Chromium


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def wait(tab: Tab, condition: str) -> None:
    end = time.monotonic() + 60
    while not tab.run(condition):
        assert time.monotonic() < end, tab.run("document.body.innerText") + str(tab.complaints())
        time.sleep(0.1)


def ask(tab: Tab, code: str) -> Any:
    found = tab.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
    assert "exceptionDetails" not in found, found
    return found["result"]["value"]


@pytest.fixture(scope="module")
def web_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of onnxruntime-web, fetched once."""
    if find_browser() is None or shutil.which("npm") is None:
        pytest.skip("no Chromium, or no npm, on this machine")
    folder = tmp_path_factory.mktemp("npm") / "ort"
    try:
        bundles._copy_web_runtime(folder, None)
    except ExportError as error:
        pytest.skip(str(error))
    return folder


@pytest.mark.slow
def test_the_page_knows_what_the_file_drops(run: Path, tmp_path: Path) -> None:
    """A drop in the last layer is in no file whose head reads the class token alone; those before it are shown."""
    for name in WEB_FILES:
        (tmp_path / name).touch()
    image = np.asarray(photo((50, 70), 0))[None]
    for schedule, kept, unread in (((14, 8, 8), [13, 7], False), ((14, 8, 5), [13, 7], True),
                                   ((17, 17, 5), [], True), ((17, 17, 17), [], False)):  # fmt: skip
        out = tmp_path / f"to-{schedule[0]}-{schedule[-1]}"
        file = written(run, out, schedule=",".join(map(str, schedule)), bundle="onnx-web", web_runtime=tmp_path)[0]
        facts = json.loads((out / "onnx-web" / "model.json").read_text())
        assert facts["unread"] == unread
        session = onnxruntime.InferenceSession(str(out / "onnx-web" / "model.onnx"))
        logits, *places = session.run(["logits", *facts["kept"]], {"images": image})
        assert [place.shape[1] for place in places] == kept
        np.testing.assert_array_equal(
            logits, open_file(file.path, read_metadata(file.path).own_target(file.path))(image)
        )


SAID = "(document.getElementById('said')?.textContent ?? '')"


@pytest.mark.slow
def test_the_page_says_what_onnxruntime_says_and_shows_what_the_model_keeps(run: Path, web_runtime: Path) -> None:
    files = written(run, run / "web", bundle="onnx-web", web_runtime=web_runtime)
    page, images = run / "web" / "onnx-web", [photo((90, 64), 3), photo((41, 200), 4)]
    for index, image in enumerate(images):
        image.save(page / f"photo{index}.png")
    model = load_model(run / "run")
    model.schedule = TokenSchedule(SCHEDULE)
    how = Preprocessing.from_record(read_metadata(files[0].path).preprocessing)
    path = find_browser()
    assert path is not None
    with served(page) as address, browser(path) as tab:
        tab.events.clear()
        tab.send("Page.navigate", url=address)
        wait(tab, f"{SAID} === 'Ready.'")
        for index, image in enumerate(images):
            blob = f"fetch('photo{index}.png').then((found) => found.blob())"
            answer = ask(tab, f"{blob}.then((blob) => window.classify(blob))")
            expected = logits(files[0].path, np.asarray(image)[None])[0]
            np.testing.assert_allclose(answer["logits"], expected, atol=1e-4)
            assert logits(page / "model.onnx", np.asarray(image)[None])[0].tolist() == expected.tolist()
            with torch.inference_mode():
                inputs = normalise(resize_crop(open_image(page / f"photo{index}.png"), how), how)
                kept = model.forward_kept(torch.from_numpy(inputs[None]))[1][1][0]  # the last drop is in no file
            assert sorted(answer["kept"]) == [place - model.prefix for place in kept.tolist() if place >= model.prefix]
            ranked = tab.run("[...document.querySelectorAll('#ranked tr')].map((row) => row.cells[0].textContent)")
            assert ranked == [CLASSES[place] for place in np.argsort(-expected)]
            assert tab.run(SAID).startswith(ranked[0]) and tab.run(SAID).endswith("7 of 16 patches kept")
            assert tab.run("document.getElementById('unread').checkVisibility()")
        # As a hand does it.
        ask(tab, (
            f"{blob}.then((blob) => {{ const data = new DataTransfer(); data.items.add(new File([blob], 'a.png')); "
            "document.getElementById('said').textContent = ''; document.getElementById('drop').dispatchEvent("
            "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); return 1; })"
        ))  # fmt: skip
        wait(tab, f"{SAID}.includes(' ms')")
        ask(tab, "window.classify(new Blob(['no image'])).then(() => 1)")
        assert tab.run(SAID).startswith("This image cannot be classified")
        assert tab.complaints() == []
        assert all(url.startswith((address, "blob:")) for url in tab.requests())


@pytest.mark.slow
def test_the_page_runs_a_switchable_file_at_each_preset(run: Path, web_runtime: Path) -> None:
    given = [f"{name}={','.join(map(str, counts))}" for name, counts in PRESETS.items()]
    out = run / "web-switchable"
    file = written(run, out, schedule=given, switchable=True, bundle="onnx-web", web_runtime=web_runtime)[0]
    image = photo((60, 80), 5)
    image.save(out / "onnx-web" / "photo.png")
    session = open_file(file.path, read_metadata(file.path).own_target(file.path), SCHEDULE)
    path = find_browser()
    assert path is not None
    with served(out / "onnx-web") as address, browser(path) as tab:
        tab.send("Page.navigate", url=address)
        wait(tab, f"{SAID} === 'Ready.'")
        for name, counts in PRESETS.items():
            tab.run(f"document.getElementById('preset').value = '{name}'")
            answer = ask(tab, "fetch('photo.png').then((found) => found.blob()).then((b) => window.classify(b))")
            np.testing.assert_allclose(answer["logits"], session.at(counts)(np.asarray(image)[None])[0], atol=1e-4)
