"""Encryption at rest: parts of chunks as they lie on a device when their tenant's chunks are encrypted.

    ciphertext (as long as the part) | tag (16 bytes) | run (16) | counter (8)

AES-256-GCM (NIST SP 800-38D).  The key of a part is HKDF-SHA256 (RFC 5869) of the tenant's key, salted with
``run``: 128 random bits drawn at each start.  The nonce is ``counter``, which only this run raises, once
for each part: so no pair of key and nonce is ever used twice, also not after a crash, whatever a restart
forgets.  What the part is (tenant, namespace, their generations, key, number of the part, count of parts)
is authenticated with it, so that it decrypts under no other name.

Checksums cover all of it, so that whoever moves, verifies or scrubs chunks needs no key.
"""

from __future__ import annotations

import errno
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mezzo.errors import InternalError, InvalidArgument, Unavailable
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.entries import SEALED, EntryTable
from mezzo_server.memory import Span

KEY_BYTES = 32
TAG_BYTES = 16
RUN_BYTES = 16
_COUNTER = struct.Struct(">Q")
OVERHEAD_BYTES = TAG_BYTES + RUN_BYTES + _COUNTER.size
"""What a part grows by."""
RUN_KEYS_MAX = 1024
"""Derived keys kept; one more costs a derivation."""
_NONCE_PREFIX = bytes(4)
_BOUND = struct.Struct("<7s16s16sIIHHB")
_INFO = b"mezzo encryption at rest 1"


class _Key(NamedTuple):
    """A tenant's key as one run uses it."""

    secret: bytes
    aead: AESGCM


class Seal(NamedTuple):
    """What the encryption of one part needs; carried by its job."""

    key: _Key
    bound: bytes
    """what is authenticated with it"""
    trailer: bytes
    """run and counter, as they lie behind the tag"""

    @property
    def nonce(self) -> bytes:
        """96 bits."""
        return _NONCE_PREFIX + self.trailer[RUN_BYTES:]


class Unseal(NamedTuple):
    """What the decryption of one part needs; run and counter are read from its bytes."""

    sealer: Sealer
    tenant: bytes
    bound: bytes


class Sealer:
    """The tenants' keys, and the nonces of this run. Owner of both; jobs of any thread may ask it for keys."""

    def __init__(self, run: bytes) -> None:
        """``run``: 16 random bytes that no other start has."""
        if len(run) != RUN_BYTES:
            raise ValueError(f"a run is named by {RUN_BYTES} bytes")
        self._run = run
        self._counter = 0
        self._keys: Mapping[bytes, bytes] = {}
        self.without: frozenset[bytes] = frozenset()
        """tenants whose chunks must be encrypted, and whose key is not to be had: what they have is misses"""
        self._derived: OrderedDict[tuple[bytes, bytes], _Key] = OrderedDict()

    def set_keys(self, keys: Mapping[bytes, bytes], without: Iterable[bytes] = ()) -> None:
        """The keys of all tenants whose chunks are encrypted, by tenant id. What is not there any more is forgotten.

        ``without``: tenants whose chunks must be encrypted, and whose key is not to be had.

        InvalidArgument for a key of a wrong length.
        """
        for key in keys.values():
            if len(key) != KEY_BYTES:
                raise InvalidArgument(f"a tenant's key has {len(key)} bytes; {KEY_BYTES} are right")
        before, self._keys = self._keys, dict(keys)
        self.without = frozenset(without) - self._keys.keys()
        for tenant, run in list(self._derived):
            if before.get(tenant) != keys.get(tenant):
                self._derived.pop((tenant, run), None)

    def seals(self, tenant: bytes) -> bool:
        """Whether new chunks of this tenant are encrypted.

        Raises:
            Unavailable: they would have to be, and the key is not here: nothing is stored in the clear instead.
        """
        if tenant in self._keys:
            return True
        if tenant in self.without:
            raise Unavailable("the tenant's chunks are encrypted, and its key cannot be had here now")
        return False

    def seal(self, scope: Scope, key: bytes, part: int, parts: int) -> Seal:
        """For one part that is to be encrypted, with a nonce that was never used. In the loop only."""
        derived = self.derive(scope.tenant, self._run)
        if derived is None:
            raise InternalError("a chunk is to be encrypted for a tenant without a key")
        self._counter += 1
        return Seal(derived, bound_to(scope, key, part, parts), self._run + _COUNTER.pack(self._counter))

    def derive(self, tenant: bytes, run: bytes) -> _Key | None:
        """A tenant's key for a run; None: the tenant has none (any more)."""
        found = self._derived.get((tenant, run))
        if found is not None:
            return found
        secret = self._keys.get(tenant)
        if secret is None:
            return None
        key = HKDF(SHA256(), length=KEY_BYTES, salt=run, info=_INFO + tenant).derive(secret)
        made = self._derived[tenant, run] = _Key(key, AESGCM(key))
        if self._keys.get(tenant) != secret:
            self._derived.pop((tenant, run), None)  # destroyed meanwhile: nothing of it stays here
        while len(self._derived) > RUN_KEYS_MAX:
            try:
                self._derived.popitem(last=False)
            except KeyError:
                break  # another thread was quicker
        return made


def bound_to(scope: Scope, key: bytes, part: int, parts: int) -> bytes:
    """What one part is, as it is authenticated."""
    return (
        _BOUND.pack(
            b"mezzo-1",
            scope.tenant,
            scope.namespace,
            scope.tenant_generation,
            scope.namespace_generation,
            part,
            parts,
            len(key),
        )
        + key
    )


def sealed_parts(parts: Sequence[int]) -> tuple[int, ...]:
    """Lengths of parts when they are encrypted, bytes."""
    return tuple([length + OVERHEAD_BYTES for length in parts])


def is_sealed(table: EntryTable, number: int) -> bool:
    """Whether an entry's parts are encrypted."""
    return table.flags[number] & SEALED != 0


def plain_length(table: EntryTable, number: int) -> int:
    """Bytes of an entry's chunk as it was put."""
    if table.flags[number] & SEALED:
        return table.length[number] - OVERHEAD_BYTES * table.parts[number]
    return table.length[number]


def plain_parts(table: EntryTable, number: int) -> Sequence[int]:
    """Lengths of an entry's parts as they were put, bytes."""
    lengths = table.part_lengths(number)
    if table.flags[number] & SEALED:
        return [length - OVERHEAD_BYTES for length in lengths]
    return lengths


def run_seal(seal: Seal, source: Sequence[Span], target: Sequence[Span]) -> int:
    """Encrypt ``source`` into ``target``, which is one span and longer by `OVERHEAD_BYTES`; 0.

    One span of source is encrypted with the interpreter lock released.
    """
    view = target[0].view
    end = len(view) - RUN_BYTES - _COUNTER.size
    if len(source) == 1:
        seal.key.aead.encrypt_into(seal.nonce, source[0].view, seal.bound, view[:end])
    else:
        encryptor = Cipher(algorithms.AES(seal.key.secret), modes.GCM(seal.nonce)).encryptor()
        encryptor.authenticate_additional_data(seal.bound)
        at = 0
        for span in source:
            at += encryptor.update_into(span.view, view[at : at + span.length])
        encryptor.finalize()
        view[at:end] = encryptor.tag
    view[end:] = seal.trailer
    return 0


def run_unseal(unseal: Unseal, source: Sequence[Span], target: Sequence[Span]) -> int:
    """Decrypt ``source``, one span, into ``target``; 0, or ``-errno``.

    EBADMSG: it is not what was encrypted for this name, and what lies in ``target`` must not be believed.
    ENOKEY: the tenant has no key any more.
    """
    view = source[0].view
    end = len(view) - RUN_BYTES - _COUNTER.size
    run = bytes(view[end : end + RUN_BYTES])
    nonce = _NONCE_PREFIX + bytes(view[end + RUN_BYTES :])
    key = unseal.sealer.derive(unseal.tenant, run)
    if key is None:
        return -errno.ENOKEY
    try:
        if len(target) == 1:
            key.aead.decrypt_into(nonce, view[:end], unseal.bound, target[0].view)
        else:
            body = end - TAG_BYTES
            cipher = Cipher(algorithms.AES(key.secret), modes.GCM(nonce, bytes(view[body:end])))
            decryptor = cipher.decryptor()
            decryptor.authenticate_additional_data(unseal.bound)
            at = 0
            for span in target:
                at += decryptor.update_into(view[at : at + span.length], span.view)
            decryptor.finalize()
    except InvalidTag:
        return -errno.EBADMSG
    return 0
