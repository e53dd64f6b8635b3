"""A local HTTP server of a folder, with range requests and faults."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# From the number and the first byte of a request: a status, ("cut", bytes) to close the connection early, an address to
# redirect to, or None.
Fault = Callable[[int, int], int | tuple[str, int] | str | None]


@contextlib.contextmanager
def serving(folder: Path, ranges: bool = True, fault: Fault = lambda number, start: None) -> Iterator[tuple[str, list]]:
    """Serve a folder; yield its address and the list of (path, first byte) of the requests for content.

    Args:
        ranges: answer range requests; otherwise send the whole file.
        fault: what is wrong with an answer.
    """
    asked: list[tuple[str, int]] = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, send: bool) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                return self.send_error(404)
            content = path.read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if ranges else None
            first, last = (int(found[1]), int(found[2] or len(content) - 1)) if found else (0, len(content) - 1)
            if first >= len(content):
                return self.send_error(416)
            last = min(last, len(content) - 1)
            wrong = None
            if send:
                wrong = fault(len(asked), first)
                asked.append((self.path, first))
            if isinstance(wrong, int):
                return self.send_error(wrong)
            if isinstance(wrong, str):
                self.send_response(302)
                self.send_header("Location", wrong)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if found else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            if ranges:
                self.send_header("Accept-Ranges", "bytes")
            if found:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            if send:
                self.wfile.write(content[first : last + 1][: wrong[1] if wrong else None])
            self.close_connection = bool(wrong)
            if wrong:
                # aiohttp drops what it has not yet handed on when a connection breaks.
                time.sleep(0.05)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
