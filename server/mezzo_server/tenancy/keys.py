"""Keys of tenants whose chunks are encrypted, and the master key under which they are kept.

A tenant's key is 256 random bits.  The metadata hold it wrapped: encrypted with the master key
(AES-256-GCM) and bound to the tenant's id, so that what is in the metadata opens nothing without the
master key's file, and the file opens nothing whose wrapped key was destroyed.

The file of a master key has one line, ``mezzo-master-key-1:`` and 32 bytes in URL-safe base64.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from mezzo.errors import InvalidArgument
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import TenantKey

KEY_BYTES = 32
NONCE_BYTES = 12
MARK = "mezzo-master-key-1:"
FILE_BYTES_MAX = 4096


class MasterKey:
    """A key that wraps those of tenants."""

    def __init__(self, secret: bytes) -> None:
        """InvalidArgument unless it has 32 bytes."""
        if len(secret) != KEY_BYTES:
            raise InvalidArgument(f"a master key has {KEY_BYTES} bytes, not {len(secret)}")
        self._aead = AESGCM(secret)
        digest = Hash(SHA256())
        digest.update(b"mezzo master key id" + secret)
        self.id = digest.finalize()[:8]
        """tells which master key wrapped a tenant's; says nothing of the key"""

    def __repr__(self) -> str:
        return f"<MasterKey {self.id.hex()}>"

    def wrap(self, tenant_id: bytes, key: bytes, entropy: Callable[[int], bytes]) -> TenantKey:
        """A tenant's key as the metadata keep it."""
        nonce = entropy(NONCE_BYTES)
        return TenantKey(
            tenant_id=tenant_id, master_id=self.id, wrapped=nonce + self._aead.encrypt(nonce, key, tenant_id)
        )

    def unwrap(self, kept: TenantKey) -> bytes | None:
        """The tenant's key; None: this is not what wrapped it, or it was changed."""
        if kept.master_id != self.id:
            return None
        try:
            return self._aead.decrypt(kept.wrapped[:NONCE_BYTES], kept.wrapped[NONCE_BYTES:], kept.tenant_id)
        except InvalidTag:
            return None


class MasterKeys:
    """The master key in use, and those before it that may still have wrapped something.

    Owner of what they unwrapped last: catalogs share the records that did not change, and whoever takes a new one
    need not open the keys of all tenants again.
    """

    def __init__(self, keys: Sequence[MasterKey] = ()) -> None:
        self._keys = tuple(keys)
        self._opened: dict[bytes, tuple[TenantKey, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def current(self) -> MasterKey:
        """What new keys are wrapped with. InvalidArgument if there is none."""
        if not self._keys:
            raise InvalidArgument(
                "there is no master key, so no tenant's chunks can be encrypted: make one with "
                "'mezzo key new FILE', and set encryption.master_key to the file"
            )
        return self._keys[0]

    def unwrap(self, kept: TenantKey) -> bytes | None:
        """A tenant's key; None: none of ours wrapped it."""
        for key in self._keys:
            secret = key.unwrap(kept)
            if secret is not None:
                return secret
        return None

    def unwrap_all(self, kept: Iterable[TenantKey]) -> tuple[Mapping[bytes, bytes], list[bytes]]:
        """(keys by tenant id, ids of the tenants whose keys cannot be unwrapped)."""
        opened: dict[bytes, tuple[TenantKey, bytes]] = {}
        failed: list[bytes] = []
        for one in kept:
            known = self._opened.get(one.tenant_id)
            secret = known[1] if known is not None and known[0] is one else self.unwrap(one)
            if secret is None:
                failed.append(one.tenant_id)
            else:
                opened[one.tenant_id] = (one, secret)
        # No key is remembered for longer than its record is there.
        self._opened = opened
        return {tenant: secret for tenant, (_, secret) in opened.items()}, failed


def keys_of(catalog: Catalog, masters: MasterKeys) -> tuple[Mapping[bytes, bytes], frozenset[bytes]]:
    """(keys by tenant id, tenants whose chunks are to be encrypted and whose key is not to be had)."""
    keys, _ = masters.unwrap_all(catalog.tenant_keys.values())
    encrypted = {tenant.id for tenant in catalog.tenants.values() if tenant.encrypted and not tenant.deleted}
    return {tenant: key for tenant, key in keys.items() if tenant in encrypted}, frozenset(
        encrypted - keys.keys()
    )


def new_tenant_key(entropy: Callable[[int], bytes]) -> bytes:
    """A key for a tenant."""
    return entropy(KEY_BYTES)


def write_master_key(path: Path, entropy: Callable[[int], bytes] = os.urandom) -> MasterKey:
    """Draw a master key and write it to a new file that only its owner can read.

    InvalidArgument if there is such a file already, or it cannot be written: a key is never overwritten.
    """
    secret = entropy(KEY_BYTES)
    text = MARK + base64.urlsafe_b64encode(secret).decode() + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InvalidArgument(f"{path} exists; a key is never overwritten") from None
    except OSError as error:
        raise InvalidArgument(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # What is encrypted with it may outlast a loss of power, so the file's name must, too.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        path.unlink(missing_ok=True)  # half of a key is none, and would be in the way of the next attempt
        raise InvalidArgument(f"cannot write {path}: {error.strerror}") from None
    return MasterKey(secret)


def read_master_key(path: Path) -> MasterKey:
    """The master key in a file. InvalidArgument says what is wrong with the file, and what would be right."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidArgument(f"cannot read the master key {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode) or len(data) > FILE_BYTES_MAX:
        raise InvalidArgument(f"{path} is no file of a master key ('mezzo key new' makes one)")
    if mode & 0o077:
        raise InvalidArgument(
            f"the master key {path} can be read or written by others (mode {stat.S_IMODE(mode):o}): chmod 600 {path}"
        )
    text = data.decode("ascii", "replace").strip()
    try:
        if not text.startswith(MARK):
            raise ValueError("no mark")
        return MasterKey(base64.b64decode(text[len(MARK) :], altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise InvalidArgument(
            f"{path} is no file of a master key: one line, {MARK} and {KEY_BYTES} bytes in base64 "
            "('mezzo key new' makes one)"
        ) from None


def read_master_keys(current: str, former: Sequence[str] = ()) -> MasterKeys:
    """The master keys in files, the one in use first; none if that is empty.

    InvalidArgument for any that cannot be read, and for former ones without one in use.
    """
    if former and not current:
        raise InvalidArgument(
            "encryption.former_master_keys needs encryption.master_key, which is in use now"
        )
    return MasterKeys([read_master_key(Path(path)) for path in (current, *former) if path])
