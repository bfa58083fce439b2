"""The one rule about addresses that other hosts can reach: encrypted, and nobody without a credential. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from mezzo.errors import InvalidArgument
from mezzo_server.config.addresses import Address
from mezzo_server.config.schema import MetricsConfig, NodeConfig, ShardConfig


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands between an address and whoever can reach it."""

    encrypted: bool
    authenticated: bool
    """whether callers without a credential are refused"""
    insecure: bool
    """whether it was said that the network is trusted"""
    flag: str = ""
    """the flag that says so; empty: there is none"""
    key: str = ""
    """the setting that says so; empty: there is none"""
    encrypt: str = "set tls.certificate and tls.key"
    """what would encrypt it"""
    credentials: str = 'set metadata.engine, and access.anonymous = ""'
    """what would authenticate callers"""
    elsewhere: str = ""
    """what is right where neither can be had"""


def check_reach(name: str, address: Address, guard: Guard) -> None:
    """Refuse to listen where others could read along, or come in without a credential.

    ``name`` is the setting that names ``address``.

    Raises:
        InvalidArgument: says what is missing, and what would be right.
    """
    if address.is_local or guard.insecure or (guard.encrypted and guard.authenticated):
        return
    missing, right = [], []
    if not guard.encrypted:
        missing.append("is not encrypted")
        right.append(guard.encrypt)
    if not guard.authenticated:
        missing.append("lets in callers without a credential")
        right.append(guard.credentials)
    if guard.elsewhere:
        right = [guard.elsewhere]
    said = " or ".join(
        part
        for part in (f"give {guard.flag}" * bool(guard.flag), f"set {guard.key}" * bool(guard.key))
        if part
    )
    trusted = f"; {said} if the network is trusted" if said else ""
    raise InvalidArgument(
        f"{name}: {address} can be reached from other hosts, and {' and '.join(missing)}: "
        f"{' and '.join(right)}{trusted}"
    )


def authenticates(config: NodeConfig) -> bool:
    """Whether callers without a credential are refused. Without a metadata engine nobody has any."""
    return bool(config.metadata.engine) and not config.access.anonymous


def shard_guard(config: ShardConfig, address: Address, *, authenticated: bool) -> Guard:
    """Of an address that a shard listens on."""
    return Guard(
        encrypted=address.tls,
        authenticated=authenticated,
        insecure=config.insecure,
        flag="--insecure",
        key="shard.insecure",
        encrypt=f"write tcps://{str(address).partition('://')[2]}, with tls.certificate and tls.key",
    )


def frontend_guard(config: NodeConfig) -> Guard:
    """Of both addresses of a front-end."""
    return Guard(
        encrypted=bool(config.tls.certificate),
        authenticated=authenticates(config),
        insecure=config.frontend.insecure,
        flag="--insecure",
        key="frontend.insecure",
    )


def service_guard(config: NodeConfig) -> Guard:
    """Of the address of a metadata service."""
    service = config.metadata_service
    return Guard(
        encrypted=bool(config.tls.certificate),
        authenticated=bool(service.secret_file or service.client_ca),
        insecure=service.insecure,
        key="metadata_service.insecure",
        credentials="set metadata_service.secret_file",
    )


def metrics_guard(config: MetricsConfig) -> Guard:
    """Of the endpoints for metrics, which have neither TLS nor credentials."""
    return Guard(
        encrypted=False,
        authenticated=False,
        insecure=config.insecure,
        key="metrics.insecure",
        elsewhere="listen on 127.0.0.1",
    )
