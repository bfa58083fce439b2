"""Why handshakes fail: a closed list, so that it can be counted by reason."""

from __future__ import annotations

import ssl

REASONS = ("plain", "timeout", "lost", "certificate", "version", "other")
"""the peer does not speak TLS; takes too long; went away; its certificate or ours is not taken; an older TLS;
anything else"""


def reason_of(error: OSError) -> str:
    """The one of `REASONS` that an error of a handshake is."""
    reason = str(getattr(error, "reason", None) or "")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return "lost"
    if "CERT" in reason or reason.endswith("ALERT_UNKNOWN_CA"):
        return "certificate"
    if "VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return "version"
    return "other"
