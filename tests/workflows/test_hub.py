"""push and pull through huggingface_hub's own client, against a local double of the hub that keeps files in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tavt_kit.core.records import write_record
from tavt_kit.errors import CheckpointError, RecordError
from tavt_kit.workflows.hub import pull, push
from tests.verbs.command import run as command

REPOSITORY = "someone/birds"


class LocalDouble(BaseHTTPRequestHandler):
    """Not the hub: the few addresses that an upload and a download ask for."""

    files: dict[str, bytes] = {}
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        here = f"http://{self.headers['Host']}/{REPOSITORY}"
        said: dict[str, Any] = {"url": here, "errors": [], "warnings": []}
        if "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(sent)["files"]]
            said = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        elif "/commit/" in self.path:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            said = {"commitUrl": f"{here}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True}
        self.answer(json.dumps(said).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        if not self.files or REPOSITORY not in self.path:
            self.send_error(404)
        elif "/resolve/" in self.path:
            body = self.files[self.path.rpartition("/")[2]]
            self.answer(body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit="1" * 40)
        else:
            listed = [{"rfilename": name} for name in self.files]
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "1" * 40} for n, b in self.files.items()]
            body = tree if "/tree/" in self.path else {"id": REPOSITORY, "sha": "1" * 40, "siblings": listed}
            self.answer(json.dumps(body).encode(), Content_Type="application/json")

    do_HEAD = do_GET


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    LocalDouble.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), LocalDouble)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_double")
    yield LocalDouble.files
    server.shutdown()
    server.server_close()


def test_a_run_goes_there_and_comes_back(model: Path, data: Path, double: dict[str, bytes], tmp_path: Path) -> None:
    assert push(model, REPOSITORY).endswith(REPOSITORY)
    assert set(double) == {"model.json", "model.safetensors", "README.md"}
    assert "pipeline_tag: image-classification" in double["README.md"].decode()
    assert pull(REPOSITORY, tmp_path / "back") == tmp_path / "back"
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (model / name).read_bytes()
    assert command("predict", tmp_path / "back", data / "disc" / "0.png") == 0


def test_a_fit_sends_what_it_recommends_with_its_figures(double: dict[str, bytes], tmp_path: Path) -> None:
    figures = {"top1": 0.875, "n": 8, "ci95": [0.5, 1.0]}
    row = {"val": figures, "test": None, "latency_ms": {"p90": 7.25}, "file": "files/0/model.int8.xml"}
    body = {"recommended": 0, "rows": [row], "data": {"name": "birds"}, "target": {"runtime": "openvino"}}
    write_record(tmp_path / "fit.json", "fit", body)
    with pytest.raises(RecordError, match="no model to push"):
        push(tmp_path, REPOSITORY)
    (tmp_path / "recommended").mkdir()
    for name in ("model.xml", "model.bin", "README.md", "predict.py", "check.json"):
        (tmp_path / "recommended" / name).write_text(name)
    assert command("push", tmp_path, REPOSITORY) == 0
    assert set(double) == {"model.xml", "model.bin", "README.md", "predict.py"}
    card = double["README.md"].decode()
    assert card.startswith("---\n") and "value: 0.875" in card and "value: 7.25" in card and card.endswith("README.md")
    assert pull(REPOSITORY, tmp_path / "back") == tmp_path / "back" / "model.xml"


def test_a_hub_that_says_no_is_one_sentence(double: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the hub did not take or give someone/birds: "):
        pull(REPOSITORY, tmp_path / "none")
    assert command("pull", REPOSITORY, "-o", tmp_path / "none") == 2
