"""TLS 1.3 and nothing older for the gRPC servers of a process. Imports no grpc: it counts before that does."""

from __future__ import annotations

import os

CIPHERS_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
NO_CIPHER_BELOW_1_3 = "ECDHE-PSK-CHACHA20-POLY1305"
"""gRPC for Python has no way to name a lowest version. Its ciphers count for TLS 1.2 only (those of 1.3 are
fixed), and this one needs a key that was shared before, which no server of gRPC has: so a handshake of 1.2 finds
no cipher in common and fails."""


def only_tls_1_3() -> None:
    """Have gRPC servers of this process refuse TLS 1.2. To be called before grpc is imported.

    The variable wins if somebody has set it.
    """
    os.environ.setdefault(CIPHERS_VARIABLE, NO_CIPHER_BELOW_1_3)
