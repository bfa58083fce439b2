"""Where an etcd is and how it is reached: the texts ``etcd://`` and ``etcds://``. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo_server.metadata.places import TRUST, Form

FORM = Form(
    what="etcd",
    plain="etcd://",
    encrypted="etcds://",
    port=2379,
    example="etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/mezzo",
    files=(*TRUST, "password_file"),
    words={"compact": ("no",)},
)


@dataclass(frozen=True, slots=True)
class EtcdPlace:
    """What an address says."""

    endpoints: tuple[str, ...]
    """host:port of each member"""
    folder: str
    """all keys begin with this and a slash"""
    tls: bool
    ca: str = ""
    """file of the authorities that may have signed the members' certificates; empty: the system's"""
    certificate: str = ""
    """file of our own; empty: none"""
    key: str = ""
    user: str = ""
    """empty: etcd asks for none"""
    password_file: str = ""
    compacts: bool = True
    """whether it is compacted, as a whole, when something of ours was removed"""


def is_etcd(url: str) -> bool:
    """Whether ``url`` says that it names an etcd."""
    return FORM.names(url)


def parse_place(url: str) -> EtcdPlace:
    """What ``url`` says.

    Raises:
        InvalidArgument: it is not of that form; the message says what is wrong.
    """
    parts = FORM.parse(url)
    if not parts.folder:
        raise FORM.wrong(url, "after the members comes the folder of the keys, as in /mezzo")
    if bool(parts.user) is not ("password_file" in parts.files):
        raise FORM.wrong(url, "a user needs a password_file, and a password_file a user")
    return EtcdPlace(
        parts.endpoints, parts.folder, parts.tls, user=parts.user, compacts=not parts.words, **parts.files
    )
