"""Serves the page of runs in progress, to this machine alone."""

from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import urlsplit

from anytrain.errors import UserError, missing_extra
from anytrain.report import live_page
from anytrain.report.live import Watch

HOST = "127.0.0.1"
PORT = 8400  # asked for first; another one where it is taken
_NAMES = {"127.0.0.1", "localhost"}  # a page elsewhere that resolves its own name to us says it
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """The page at /, what it shows now as JSON at /state, and its scripts."""

    daemon_threads = True

    def __init__(self, watches: Sequence[Watch], port: int) -> None:
        self.pages = _pages(watches)
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


Page = tuple[str, Callable[[], bytes]]  # content type, content


def _pages(watches: Sequence[Watch]) -> dict[str, Page]:
    plotly = plotly_js()
    return {
        "/": ("text/html; charset=utf-8", lambda: live_page.html(watches).encode()),
        "/state": (
            "application/json",
            lambda: live_page.data(live_page.state(watches)).encode(),
        ),
        "/live.js": ("text/javascript; charset=utf-8", live_page.text("live_page.js").encode),
        "/plotly.js": ("text/javascript; charset=utf-8", lambda: plotly),
    }


def plotly_js() -> bytes:
    """The script that draws, out of the Python package: nothing is fetched from elsewhere."""
    try:
        return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    except ModuleNotFoundError as error:
        raise missing_extra("plotly", "report", "the live page") from error


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "anytrain"
    sys_version = ""

    def do_GET(self) -> None:
        if not _is_local(self.headers.get("Host", "")):
            self._answer(403, "text/plain", b"This page is for localhost alone.\n")
            return
        page = self.server.pages.get(urlsplit(self.path).path)
        if page is None:
            self._answer(404, "text/plain", b"There is / and nothing else.\n")
            return
        kind, content = page
        self._answer(200, kind, content())

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Type": kind, **_HEADERS}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except ConnectionError:
            pass  # the reader has left

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is for the address."""


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine; any port, as a tunnel may have another."""
    try:
        return urlsplit(f"//{host}").hostname in _NAMES
    except ValueError:
        return False


def server(watches: Sequence[Watch], port: int | None) -> Server:
    """A server at `port`; at 8400, or where that is taken at a free one, where `port` is None."""
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f"--port {port}: 0 (any) to 65535 are valid")
    try:
        return Server(watches, PORT if port is None else port)
    except OSError as error:
        if port is None:
            return Server(watches, 0)
        raise UserError(f"--port {port}: {error.strerror}; a free port, or 0, is valid") from error
