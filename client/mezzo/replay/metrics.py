"""Reads a page of metrics of a process on this host, as a demo does."""

from __future__ import annotations

from urllib.request import ProxyHandler, build_opener

PAGE_BYTES_MAX = 4 * 1024**2
PAGE_S = 5.0


def read_metrics(url: str) -> list[bytes]:
    """The lines of a page that hold a value; none where there is no such page on this host."""
    if not url.startswith("http://127.0.0.1:"):
        return []
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=PAGE_S) as page:
            lines = page.read(PAGE_BYTES_MAX).splitlines()
    except OSError:
        return []
    return [line for line in lines if line and not line.startswith(b"#")]
