"""Credentials and ticket keys in a metadata engine: issued, rotated, revoked; published and withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from mezzo.errors import InvalidArgument, OverQuota, Unavailable
from mezzo_server.metadata.engine import OPERATIONS_MAX, Check, Write
from mezzo_server.tenancy.entries import CREDENTIALS, credential_key, encode, tenant_key, ticket_key_key
from mezzo_server.tenancy.model import NOTE_CHARACTERS_MAX, SCOPES, Credential, Tenant, TicketKey
from mezzo_server.tenancy.records import Found, Plan, Records
from mezzo_server.tenancy.tokens import new_token

CREDENTIALS_MAX = 256
"""of one tenant, in force; twice as many while those that were rotated overlap with their successors"""
ROTATED_MAX = OPERATIONS_MAX // 2
"""in one transaction"""
VOID_MAX = 256
"""revoked and expired ones of one tenant whose records are kept"""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new credential. The token's text is told this once."""

    token: str
    credential: Credential


def check_scopes(scopes: Sequence[str]) -> None:
    """Raises InvalidArgument: there are none, or one that nobody knows."""
    wrong = sorted(set(scopes) - set(SCOPES))
    if wrong or not scopes:
        raise InvalidArgument(
            f"scopes are one or more of {', '.join(SCOPES)}" + (f", not {', '.join(wrong)}" if wrong else "")
        )


class Credentials:
    """The operations; part of `Registry`."""

    def __init__(self, records: Records, now: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._records = records
        self._now = now
        self._random = random

    async def issue(
        self, tenant_id: bytes, scopes: Sequence[str], *, expires_s: int = 0, note: str = ""
    ) -> Issued:
        """A new token of a tenant's; of an operator's if ``tenant_id`` is empty.

        Raises:
            InvalidArgument: there is no such tenant or scope, or a value is out of range.
            OverQuota: it has `CREDENTIALS_MAX`.
        """
        check_scopes(scopes)
        if len(note) > NOTE_CHARACTERS_MAX:
            raise InvalidArgument(f"a note has {NOTE_CHARACTERS_MAX} characters at most, not {len(note)}")
        token, token_id, kept = new_token(self._random)
        credential = Credential(
            id=token_id,
            tenant_id=tenant_id,
            hash=kept,
            scopes=[scope for scope in SCOPES if scope in scopes],
            created_s=int(self._now()),
            expires_s=expires_s,
            note=note,
        )

        async def think() -> Plan[Issued]:
            plan = Plan(Issued(token, credential))
            await self._admit(plan, tenant_id)
            plan.put(credential, 0)
            return plan

        issued = await self._records.change(think)
        await self._forget_oldest(tenant_id)
        return issued

    async def rotate(self, credential_ids: Sequence[str], overlap_s: float) -> list[Issued]:
        """New tokens like these, which themselves are good for ``overlap_s`` more and no longer.

        All of them or none, if they are `ROTATED_MAX` at most: a token that nobody was told of is lost.  Those
        that end within that time by themselves are left out: a successor would end with them.

        Raises:
            InvalidArgument: there is none of this id, or it is void already.
            OverQuota: twice `CREDENTIALS_MAX` would be in force.
        """
        issued: list[Issued] = []
        for first in range(0, len(credential_ids), ROTATED_MAX):
            issued += await self._rotate(credential_ids[first : first + ROTATED_MAX], overlap_s)
        return issued

    async def _rotate(self, credential_ids: Sequence[str], overlap_s: float) -> list[Issued]:
        made = [new_token(self._random) for _ in credential_ids]

        async def think() -> Plan[list[Issued]]:
            now = int(self._now())
            ends = now + max(0, int(overlap_s))
            plan: Plan[list[Issued]] = Plan([])
            for credential_id, (token, token_id, kept) in zip(credential_ids, made, strict=True):
                found = await self._find(credential_id)
                was = found.record
                if self._void(was):
                    raise InvalidArgument(f"credential {credential_id} is not in force any more")
                if 0 < was.expires_s <= ends:
                    continue  # somebody else may have been quicker to rotate it
                old = replace(was, expires_s=min(was.expires_s or ends, ends), revoked=overlap_s <= 0)
                new = replace(was, id=token_id, hash=kept, created_s=now)
                plan.put(old, found.revision)
                plan.put(new, 0)
                plan.result.append(Issued(token, new))
            if overlap_s > 0:
                for tenant_id in {one.credential.tenant_id for one in plan.result}:
                    await self._check_room(tenant_id, len(plan.result), 2 * CREDENTIALS_MAX)
            return plan

        issued = await self._records.change(think)
        for tenant_id in {one.credential.tenant_id for one in issued}:
            await self._forget_oldest(tenant_id)
        return issued

    async def revoke(self, credential_id: str) -> Credential:
        """The credential, void from now on. Raises InvalidArgument: there is none."""

        async def think() -> Plan[Credential]:
            found = await self._find(credential_id)
            gone = replace(found.record, revoked=True)
            plan = Plan(gone)
            if gone != found.record:
                plan.put(gone, found.revision)
            return plan

        credential = await self._records.change(think)
        await self._forget_oldest(credential.tenant_id)
        return credential

    async def all(self, tenant_id: bytes | None = None) -> list[Credential]:
        """Credentials of a tenant (empty: of operators; None: all), oldest first; void ones are among them."""
        return [found.record for found in await self._of(tenant_id)]

    async def remove_of(self, tenant_ids: Collection[bytes]) -> None:
        """Remove the credentials of tenants that were deleted."""
        found = await self._records.all(Credential, CREDENTIALS)
        await self._records.remove(
            [credential_key(item.record.id) for item in found if item.record.tenant_id in tenant_ids]
        )

    # -- ticket keys

    async def publish_ticket_key(self, key: TicketKey, ttl_s: float) -> int:
        """Let shards know a public key, for ``ttl_s`` from now; the lease with which to keep it there."""
        lease = await self._records.engine.grant(ttl_s)
        try:
            await self._records.engine.transact([], [Write(ticket_key_key(key.id), encode(key), lease)])
        except InvalidArgument:
            raise Unavailable("the metadata lease ended before the ticket key was written with it") from None
        return lease

    async def keep_ticket_key(self, lease: int) -> bool:
        """Let its time begin anew; False: it is gone, and must be published again."""
        return await self._records.engine.keep(lease)

    # -- below

    async def _admit(self, plan: Plan[Issued], tenant_id: bytes) -> None:
        if tenant_id:
            owner = await self._records.find(Tenant, tenant_key(tenant_id))
            if owner is None or owner.record.deleted:
                raise InvalidArgument("there is no such tenant")
            plan.checks.append(Check(tenant_key(tenant_id), owner.revision))
        await self._check_room(tenant_id, 1, CREDENTIALS_MAX)

    async def _check_room(self, tenant_id: bytes, more: int, most: int) -> None:
        held = sum(not self._void(found.record) for found in await self._of(tenant_id))
        if held + more > most:
            raise OverQuota(f"{held} credentials are in force; revoke one", 60.0)

    async def _of(self, tenant_id: bytes | None) -> list[Found[Credential]]:
        found = await self._records.all(Credential, CREDENTIALS)
        kept = [item for item in found if tenant_id is None or item.record.tenant_id == tenant_id]
        return sorted(kept, key=lambda item: (item.record.created_s, item.record.id))

    async def _find(self, credential_id: str) -> Found[Credential]:
        if not credential_id.isalnum() or len(credential_id) > 64:
            raise InvalidArgument("a credential's id is 16 hexadecimal digits")
        found = await self._records.find(Credential, credential_key(credential_id))
        if found is None:
            raise InvalidArgument(f"there is no credential {credential_id}")
        return found

    async def _forget_oldest(self, tenant_id: bytes) -> None:
        async def forget() -> None:
            void = [item for item in await self._of(tenant_id) if self._void(item.record)]
            void.sort(key=lambda item: item.revision)
            await self._records.remove([credential_key(item.record.id) for item in void[:-VOID_MAX]])

        await self._records.clear_up(forget)

    def _void(self, credential: Credential) -> bool:
        return credential.revoked or 0 < credential.expires_s <= self._now()
