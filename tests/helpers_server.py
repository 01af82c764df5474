"""A file server on this machine that records what it was asked for."""

from __future__ import annotations

import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, breaks off its first answers after so many bytes as `breaks` says, or leads to
    `elsewhere`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.content_type = "application/octet-stream"
        self.status = 200
        self.breaks: list[int] = []
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.elsewhere: str | None = None
        #: More headers of its answers, what it was sent, and seconds that it takes over each.
        self.headers: dict[str, str] = {}
        self.received: list[dict[str, str]] = []
        self.pause_s = 0.0
        self.announces = True  # how long what it sends is
        self.once = False  # leads elsewhere at the first request alone

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        server.paths.append(self.path)
        server.received.append(dict(self.headers))
        time.sleep(server.pause_s)
        if server.elsewhere:
            elsewhere, server.elsewhere = server.elsewhere, None if server.once else server.elsewhere
            self.send_response(302)
            self.send_header("Location", elsewhere)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.status < 300 and server.status != 200:
            self.send_response(server.status)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if wanted and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Type", server.content_type)
        if server.announces:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # whoever asked has left
            self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_: Any) -> None:
        pass
