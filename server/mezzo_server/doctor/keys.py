"""Checks of the key files that a configuration names: of encryption at rest, of JSON Web Tokens, and of the pod."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from mezzo.errors import InvalidArgument
from mezzo_server.config import NodeConfig
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.metadata.remote.place import is_service, parse_service
from mezzo_server.metadata.remote.secrets import parse_secrets

MASTER_KEY = "encryption"
JWKS = "access.jwt.keys"
SECRETS = "metadata_service"


def examine_keys(config: NodeConfig) -> Iterator[Finding]:
    """What is wrong with these files; nothing where none is named."""
    yield from _master_keys(config.encryption.master_key, config.encryption.former_master_keys)
    source = config.access.jwt.keys
    if source and "://" not in source:
        yield _token_keys(Path(source))
    service = config.metadata_service
    paths = [service.secret_file, service.shard_secret_file] if service.enabled else []
    if is_service(config.metadata.engine):
        paths.append(parse_service(config.metadata.engine).secret_file)
    for path in dict.fromkeys(filter(None, paths)):
        yield _secrets(Path(path))


def _master_keys(current: str, former: list[str]) -> Iterator[Finding]:
    if not current and not former:
        return
    from mezzo_server.tenancy.keys import read_master_keys

    try:
        keys = read_master_keys(current, former)
    except InvalidArgument as error:
        yield Finding(MASTER_KEY, State.BROKEN, str(error), "docs/encryption.md says how to make one")
        return
    seen = f"master key {keys.current.id.hex()} in {current}"
    if former:
        advice = "mezzo key rewrap wraps the tenants' keys with the new one; then take the former out"
        yield Finding(MASTER_KEY, State.BETTER, f"{seen}, and {len(former)} former", advice)
    else:
        yield Finding(MASTER_KEY, State.GOOD, seen)


def _token_keys(path: Path) -> Finding:
    from mezzo_server.access.keysets import parse_key_set

    try:
        keys = parse_key_set(path.read_bytes())
    except OSError as error:
        return _no_token_keys(f"cannot read {path}: {error.strerror}")
    except InvalidArgument as error:
        return _no_token_keys(f"{path}: {error}")
    return Finding(JWKS, State.GOOD, f"{path} has {len(keys)} that can be of use")


def _secrets(path: Path) -> Finding:
    """Of the pod, for its metadata service."""
    try:
        count, mode = len(parse_secrets(path.read_bytes())), path.stat().st_mode
    except OSError as error:
        seen = f"cannot read {path}: {error.strerror}"
        return Finding(SECRETS, State.BROKEN, seen, "docs/metadata.md says how to make one")
    except InvalidArgument as error:
        return Finding(SECRETS, State.BROKEN, f"{path}: {error}", "docs/metadata.md says how to make one")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        seen = f"{path}: others on this host can read it, and whoever has it has the pod"
        return Finding(SECRETS, State.BETTER, seen, f"chmod 600 {path}")
    return Finding(SECRETS, State.GOOD, f"{path} has {'a secret' if count == 1 else f'{count} secrets'}")


def _no_token_keys(seen: str) -> Finding:
    return Finding(JWKS, State.MISSING, seen, "until it is there JSON Web Tokens are refused as unavailable")
