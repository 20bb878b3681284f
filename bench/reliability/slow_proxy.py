"""A server's stand-in that hands each request on, but late."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

_OF_A_CONNECTION = ("connection", "content-encoding", "content-length", "host", "transfer-encoding")


@contextmanager
def delayed(address: str, seconds: float) -> Iterator[str]:
    """Yield an address that answers as another does, so many seconds later."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            time.sleep(seconds)
            headers = {
                key: value for key, value in self.headers.items() if key.lower() not in _OF_A_CONNECTION
            }
            answer = requests.request(
                self.command, address + self.path, headers=headers, data=body, timeout=60
            )
            self.send_response(answer.status_code)
            for key, value in answer.headers.items():
                if key.lower() not in _OF_A_CONNECTION:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on  # noqa: N815 -- the library's names

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
