"""What `[access]` refuses: what could not work, and what would let in more than was meant."""

from __future__ import annotations

from typing import Any

import pytest

from mezzo.errors import InvalidArgument
from mezzo_server.config import load
from mezzo_server.config.access import unix_mode, unix_users

JWT = {"keys": "/etc/mezzo/keys.json", "issuer": "https://id.example"}


ENGINE = {"engine": "sqlite:///var/lib/mezzo/metadata.db"}


def refused(**access: Any) -> str:
    with pytest.raises(InvalidArgument) as error:
        load(flags={"access": access, "metadata": ENGINE})
    return str(error.value)


def test_by_default_nobody_needs_a_credential() -> None:
    access = load().access
    assert (access.anonymous, access.anonymous_scopes, access.jwt.keys) == ("default", ["read", "write"], "")
    assert (unix_mode(access), unix_users(access)) == (0o600, frozenset())


@pytest.mark.parametrize(
    ("access", "told"),
    [
        ({"anonymous": "no/name"}, "access.anonymous: 'no/name'"),
        ({"pod": ""}, "access.pod"),
        ({"anonymous_scopes": ["admin"]}, "access.anonymous_scopes: 'admin'"),
        ({"key_s": 60}, "four times frontend.session_s"),
        ({"unix_mode": "rw"}, "octal"),
        ({"unix_mode": "0999"}, "octal"),
        ({"unix_users": ["root"]}, "access.unix_users: 'root'"),
        ({"jwt": {"keys": "/k"}}, "access.jwt.issuer"),
        ({"jwt": {**JWT, "audience": ""}}, "access.jwt.audience"),
        ({"jwt": {**JWT, "algorithms": ["HS256"]}}, "HS256"),
        ({"jwt": {**JWT, "algorithms": ["none"]}}, "none"),
        ({"jwt": {**JWT, "algorithms": []}}, "nothing"),
        ({"jwt": {**JWT, "keys": "http://id.example/keys"}}, "must be https://"),
        ({"jwt": {**JWT, "keys": "ftp://127.0.0.1/keys"}}, "must be https://"),
        ({"mtls": {"tenant": "{tenant}"}}, "access.mtls.tenant"),
        ({"mtls": {"tenant": "{tenant}.t.example"}}, "tls.client_certificates"),
        ({"mtls": {"scopes": ["all"]}}, "access.mtls.scopes"),
    ],
)
def test_what_is_refused(access: dict[str, Any], told: str) -> None:
    assert told in refused(**access)


@pytest.mark.parametrize(
    "keys", ["/k.json", "https://id.example/keys", "http://127.0.0.1:8080/keys", "http://[::1]/keys"]
)
def test_where_keys_may_come_from(keys: str) -> None:
    assert load(flags={"access": {"jwt": {**JWT, "keys": keys}}, "metadata": ENGINE}).access.jwt.keys == keys


def test_modes_and_users() -> None:
    access = load(flags={"access": {"unix_mode": "660", "unix_users": ["0", "1000"]}}).access
    assert (unix_mode(access), unix_users(access)) == (0o660, frozenset({0, 1000}))


@pytest.mark.parametrize(
    "access", [{"anonymous": ""}, {"jwt": JWT}, {"mtls": {"tenant": "{tenant}.tenants.example"}}]
)
def test_nobody_believes_that_somebody_is_kept_out_who_is_not(access: dict[str, Any]) -> None:
    """Without metadata everybody is let in, so what says otherwise is refused."""
    with pytest.raises(InvalidArgument, match="no metadata engine"):
        load(flags={"access": access})


def test_off_loopback_needs_credentials_that_somebody_can_have() -> None:
    tls = {"certificate": "/c.pem", "key": "/k.pem"}
    shard = {"listen": ["tcps://0.0.0.0:7700"]}
    good = {"access": {"anonymous": ""}, "metadata": ENGINE, "tls": tls, "shard": shard}
    assert load(flags=good).shard.listen == shard["listen"]
    with pytest.raises(InvalidArgument, match="without a credential"):
        load(flags={**good, "access": {}})
    with pytest.raises(InvalidArgument):
        load(flags={**good, "metadata": {}})
