"""Where the metadata service is and how it is reached: the texts ``mezzo://`` and ``mezzos://``. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo.address import Address
from mezzo_server.metadata.places import TRUST, Form

FORM = Form(
    what="metadata service",
    plain="mezzo://",
    encrypted="mezzos://",
    port=7713,
    example="mezzos://10.0.0.1:7713,10.0.0.2:7713?ca=/etc/mezzo/ca.pem&secret_file=/etc/mezzo/pod.secret",
    files=(*TRUST, "secret_file"),
    words={"insecure": ("yes",)},
)


@dataclass(frozen=True, slots=True)
class ServicePlace:
    """What an address says."""

    endpoints: tuple[str, ...]
    """host:port of each replica"""
    tls: bool
    ca: str = ""
    """file of the authorities that may have signed the replicas' certificates; empty: the system's"""
    certificate: str = ""
    """file of our own; empty: none"""
    key: str = ""
    secret_file: str = ""
    """whose first line is what we show; empty: nothing"""


def is_service(url: str) -> bool:
    """Whether ``url`` says that it names a metadata service."""
    return FORM.names(url)


def parse_service(url: str) -> ServicePlace:
    """What ``url`` says.

    Raises:
        InvalidArgument: it is not of that form, or would show a secret to whoever listens in; the message says what is
            wrong.
    """
    parts = FORM.parse(url)
    if parts.folder or parts.user:
        raise FORM.wrong(url, "it has a folder or a user")
    local = all(Address("tcp", each.rpartition(":")[0].strip("[]")).is_local for each in parts.endpoints)
    if "secret_file" in parts.files and not (parts.tls or local or parts.words):
        raise FORM.wrong(
            url,
            f"the secret would be sent in the clear: write {FORM.encrypted}, or add insecure=yes if the network is "
            "trusted",
        )
    return ServicePlace(parts.endpoints, parts.tls, **parts.files)
