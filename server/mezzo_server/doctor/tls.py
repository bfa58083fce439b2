"""Checks of the certificates that a configuration names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from mezzo.errors import InvalidArgument
from mezzo_server.config import TlsConfig
from mezzo_server.doctor.finding import Finding, State

SOON_S = 14 * 86_400.0
"""A certificate that expires within that time is worth a word."""
OTHERS = 0o077


def examine_tls(config: TlsConfig, now_s: Callable[[], float] = time.time) -> Iterator[Finding]:
    """What is wrong, or about to be, with the files of ``[tls]``; nothing without a certificate."""
    if not config.certificate:
        return
    from mezzo_server.tls.certificates import read_identity, server_context

    try:
        identity = read_identity(config, now_s())
        server_context(config, identity)
    except InvalidArgument as error:
        yield Finding("tls", State.BROKEN, str(error), "docs/tls.md says how to make one")
        return
    days = (identity.expires_s - now_s()) / 86_400
    date = datetime.fromtimestamp(identity.expires_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    seen = f"for {identity.subject}, expires on {date}, in {days:.0f} days"
    if identity.expires_s - now_s() < SOON_S:
        yield Finding(
            "tls.certificate",
            State.BETTER,
            seen,
            "renew it and replace the files: a node that runs takes them in by itself",
        )
    else:
        yield Finding("tls.certificate", State.GOOD, seen)
    if os.stat(config.key).st_mode & OTHERS:
        yield Finding("tls.key", State.BETTER, "others than its owner may read it", f"chmod 600 {config.key}")
