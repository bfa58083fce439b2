"""Who may call the metadata service: the processes of the pod, by a secret that they share, and nobody else.

There are two secrets: one for processes that may do everything (front-ends, operators' commands), and one for shards,
which may read everything and write only what a shard has to say (`SHARD_WRITES`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from mezzo.errors import Denied, InvalidArgument
from mezzo_server.access.principal import ALL_SCOPES, NO_TENANT, Principal, Reason, Refused, Scopes
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.gate import Context, Gate, bearer
from mezzo_server.frontend.permissions import ANYBODY, Need
from mezzo_server.metadata.engine import Write
from mezzo_server.metadata.remote.secrets import digest, is_one_of, parse_secrets
from mezzo_server.pod.records import SHARD_WRITES

log = structlog.get_logger("mezzo.metadata")

PROCESS = Principal(NO_TENANT, "", ALL_SCOPES, "a process of the pod")
SHARD = Principal(NO_TENANT, "", Scopes.READ | Scopes.WRITE, "a shard of the pod")
NEEDS: dict[str, Need] = dict.fromkeys(
    ("GetEntry", "ScanEntries", "Transact", "GrantLease", "KeepLease", "RevokeLease", "WatchEntries"), ANYBODY
)
"""By method. Whoever comes through the gate may make each call; what may be written is looked at key by key."""


class PodGate(Gate):
    """Knows the secrets. Owner of their digests."""

    def __init__(self, secret_file: str, shard_secret_file: str) -> None:
        """
        Raises:
            InvalidArgument: a file cannot be read, or has no secrets.
        """
        super().__init__(None)
        self._files = {"secret_file": secret_file, "shard_secret_file": shard_secret_file}
        self._read: dict[str, bytes] = {}
        self._digests: dict[str, Sequence[bytes]] = {}
        for name, path in self._files.items():
            if path:
                self._take(name, path)
        self._complained = False

    def look(self) -> bool:
        """Take in secrets that were changed; what cannot be used leaves those before in force. Whether there were any."""
        before = dict(self._digests)
        try:
            for name, path in self._files.items():
                if path:
                    self._take(name, path)
        except InvalidArgument as error:
            if not self._complained:
                log.warning("the secrets of the pod were not replaced", error=str(error))
            self._complained = True
        else:
            self._complained = False
        return self._digests != before

    async def admit(self, context: Context, method: str, need: Need) -> Principal:
        """See `Gate.admit`. Raises Refused."""
        if not self._digests:
            return PROCESS
        shown = bearer(context)
        if shown:
            for name, principal in (("secret_file", PROCESS), ("shard_secret_file", SHARD)):
                if is_one_of(shown, self._digests.get(name, ())):
                    return principal
        reason = Reason.UNKNOWN if shown else Reason.MISSING
        log.info("a call was refused", method=method, peer=context.peer(), reason=reason.value)
        raise Refused(reason)

    def _take(self, name: str, path: str) -> None:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InvalidArgument(f"metadata_service.{name}: cannot read {path}: {error.strerror}") from None
        if data == self._read.get(name):
            return
        try:
            secrets = parse_secrets(data)
        except InvalidArgument as error:
            raise InvalidArgument(f"metadata_service.{name}: {path}: {error}") from None
        if name in self._read:
            log.info("the secrets of the pod were replaced", setting=name)
        self._read[name] = data
        self._digests[name] = [digest(secret) for secret in secrets]


def check_writes(writes: Sequence[Write]) -> None:
    """Of the call that is being handled. Raises Denied: a shard may not write one of these."""
    if caller() is not SHARD:
        return
    for write in writes:
        if not write.key.startswith(SHARD_WRITES):
            raise Denied(f"a shard may not write {write.key}")
