"""The page's files as the server sends them: read once, flat at the root, under a strict content security policy."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but our own files is ever loaded or run, nothing written inline, no text is ever made into HTML (Trusted Types
# without a policy), and nothing is sent elsewhere: were a model's output to become HTML by some mistake, it would still
# be dead. frame-ancestors: no other site may show the page and have it clicked.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file with the headers it is sent with; `headers["ETag"]` is what `If-None-Match` is compared with."""

    body: bytes
    headers: dict[str, str]


def page_file(path: str) -> PageFile | None:
    """The page's file at a URL path ("/" and "/main.js", …), or None for a path that is not the page's."""
    return _files().get(path)


@cache
def _files() -> dict[str, PageFile]:
    found = {f"/{file.name}": file for file in sorted(FOLDER.iterdir()) if file.suffix in TYPES}
    files = {}
    for path, file in found.items():
        body = file.read_bytes()
        if file.suffix == ".html":
            # All modules are asked for at once, not each when the one before it has been read.
            links = "\n    ".join(f'<link rel="modulepreload" href="{name}">' for name in _modules(body.decode()))
            body = body.replace(b"<!--modules-->", links.encode())
        files[path] = PageFile(
            body,
            {
                "Content-Type": TYPES[file.suffix],
                **HEADERS,
                "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            },
        )
    files["/"], files["/arena"] = files["/index.html"], files["/arena.html"]
    return files


def _modules(html: str) -> list[str]:
    """The modules that a page's own one imports, and those import, but for itself."""
    start = re.findall(r'<script type="module" src="([\w.]+)"', html)
    found, new = set(start), list(start)
    while new:
        text = (FOLDER / new.pop()).read_text(encoding="utf-8")
        named = set(re.findall(r'^import .*"\./([\w.]+)";$', text, re.M)) - found
        found |= named
        new += named
    return sorted(found - set(start))
