"""A server of files on this machine that breaks off or sends something else."""

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
        self.content, self.breaks, self.says_size = CONTENT, False, True
        self.asked = 0
        self.url = ""


def _handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    places = {"/moved": "/w.npz", "/away": "ftp://example.org/w.npz"}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            if self.path != "/w.npz":
                return self._otherwise()
            shop.asked += 1
            body = shop.content
            self.send_response(200)
            if shop.says_size:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if shop.breaks:
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
