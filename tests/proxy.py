"""A TCP proxy between a client and a server, that can be away or slow: what a network does."""

import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Forwards connections to a local port; answers come ``delay`` seconds later if that is set."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.delay = 0.0
        self.delayed = b""  # what a request's first line holds whose answer is to be delayed
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self._open = []

    def down(self) -> None:
        """Refuse connections, and drop those that are open."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open = []

    def up(self) -> None:
        """Accept connections again."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it is down
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                asked = [b""]  # the first line of the latest request
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(*ends, asked), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, asked: list[bytes]) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                methods = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")
                if content.startswith(methods):
                    asked[0] = content.splitlines()[0]
                if content.startswith(b"HTTP/") and self.delayed in asked[0]:
                    time.sleep(self.delay)
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
