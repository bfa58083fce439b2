"""Checks of the key files that a configuration names: of encryption at rest, and of JSON Web Tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mezzo.errors import InvalidArgument
from mezzo_server.config import NodeConfig
from mezzo_server.doctor.finding import Finding, State

MASTER_KEY = "encryption"
JWKS = "access.jwt.keys"


def examine_keys(config: NodeConfig) -> Iterator[Finding]:
    """What is wrong with these files; nothing where none is named."""
    yield from _master_keys(config.encryption.master_key, config.encryption.former_master_keys)
    source = config.access.jwt.keys
    if source and "://" not in source:
        yield _token_keys(Path(source))


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


def _no_token_keys(seen: str) -> Finding:
    return Finding(JWKS, State.MISSING, seen, "until it is there JSON Web Tokens are refused as unavailable")
