"""TLS of the front-end: gRPC's credentials out of the certificates in force."""

from __future__ import annotations

import grpc

from mezzo_server.tls.certificates import Certificates, Identity


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials for one server, those of ``certificates`` at each handshake: a new one counts at once.

    Not to be shared by servers: each asks for what has changed since it was asked last.
    """
    served: list[Identity] = [certificates.identity]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        now = certificates.identity
        if now is served[0]:
            return None
        served[0] = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.identity),
        fetch,  # type: ignore[arg-type]  # None: no change, as its documentation says
        require_client_authentication=bool(certificates.identity.client_ca),
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.chain)], root_certificates=identity.client_ca or None
    )
