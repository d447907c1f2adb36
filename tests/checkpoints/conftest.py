"""A server of files on this machine that breaks off, changes its mind, or sends something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CONTENT = bytes(range(256)) * 40


class Shop:
    """What the server does, and what it was asked."""

    def __init__(self) -> None:
        self.content, self.etag, self.breaks = CONTENT, '"one"', 0
        self.says_size, self.takes_ranges = True, True
        self.asked: list[str | None] = []
        self.url = ""


def _handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    places = {"/moved": "/w.npz", "/away": "ftp://example.org/w.npz"}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            if self.path != "/w.npz":
                return self._otherwise()
            wanted = self.headers.get("Range")
            shop.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and shop.takes_ranges else 0
            start = start if self.headers.get("If-Range") in (None, shop.etag) else 0
            if start >= len(shop.content):
                return self._short(416)
            body = shop.content[start:]
            self.send_response(206 if start else 200)
            if shop.etag:
                self.send_header("ETag", shop.etag)
            if shop.says_size:
                self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(shop.content) - 1}/{len(shop.content)}")
            self.end_headers()
            if shop.breaks:
                shop.breaks -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)
            self.close_connection = True

        def _otherwise(self) -> None:
            self._short(302 if self.path in places else 200 if self.path == "/page" else 404)

        def _short(self, status: int) -> None:
            self.send_response(status)
            if self.path in places:
                self.send_header("Location", places[self.path])
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Shop()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()
