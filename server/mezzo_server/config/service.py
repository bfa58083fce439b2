"""Rules of ``[metadata_service]``. No I/O."""

from __future__ import annotations

from mezzo.errors import InvalidArgument
from mezzo_server.config.schema import NodeConfig
from mezzo_server.metadata.remote.place import is_service
from mezzo_server.metadata.urls import check_url


def service_engine(config: NodeConfig) -> str:
    """The engine that a metadata service looks after; empty: none is named."""
    return config.metadata_service.engine or config.metadata.engine


def check_service(config: NodeConfig) -> None:
    """
    Raises:
        InvalidArgument: names the key, its value and what would be right.
    """
    service, url = config.metadata_service, service_engine(config)
    key = "metadata_service.engine" if service.engine else "metadata.engine"
    if not url:
        raise InvalidArgument(
            "a metadata service needs an engine under it: set metadata_service.engine, as etcd://10.0.0.1:2379/mezzo"
        )
    try:
        check_url(url)
    except InvalidArgument as error:
        raise InvalidArgument(f"{key}: {error}") from None
    if is_service(url):
        raise InvalidArgument(
            f"{key}: {url} is a metadata service itself: set metadata_service.engine to the engine under it"
        )
    if service.shard_secret_file and not service.secret_file:
        raise InvalidArgument(
            "metadata_service.shard_secret_file needs metadata_service.secret_file: without it everybody may do everything"
        )
    if service.shard_secret_file and service.shard_secret_file == service.secret_file:
        raise InvalidArgument(
            f"metadata_service.shard_secret_file and metadata_service.secret_file are both {service.secret_file}: shards "
            "could do everything"
        )
    if service.client_ca and not config.tls.certificate:
        raise InvalidArgument(
            "metadata_service.client_ca needs tls.certificate: certificates are asked for over TLS only"
        )
    if service.drain_s >= config.supervisor.stop_s:
        raise InvalidArgument(
            f"metadata_service.drain_s ({service.drain_s:g}) must be under supervisor.stop_s ({config.supervisor.stop_s:g})"
        )
