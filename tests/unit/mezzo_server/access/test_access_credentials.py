"""Tokens, JSON Web Tokens, certificates, and the chain that asks for them."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jwt as pyjwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument, Unavailable
from mezzo_server.access.authentication import LOOKERS_MAX, Anonymous, Authentication, Certificates
from mezzo_server.access.jwt import JwtRules, UnknownKey, check_jwt
from mezzo_server.access.keysets import PublicKey, parse_key_set
from mezzo_server.access.mtls import CertificateRule
from mezzo_server.access.principal import Principal, Reason, Refused, Scopes, scope_names, scopes_of
from mezzo_server.access.tokens import check_token
from mezzo_server.tenancy import tokens
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential, Tenant
from mezzo_server.tenancy.tokens import new_token

NOW = 1_700_000_000
A, B, GONE = b"a" * 16, b"b" * 16, b"g" * 16
TENANTS = {
    A: Tenant(id=A, name="a"),
    B: Tenant(id=B, name="b"),
    GONE: Tenant(id=GONE, name="gone", deleted=True),
}


def catalog(*credentials: Credential) -> Catalog:
    return Catalog(
        tenants=TENANTS,
        tenant_ids={"a": A, "b": B},
        credentials={credential.id: credential for credential in credentials},
    )


def made(tenant: bytes = A, number: int = 1, **fields: Any) -> tuple[str, Credential]:
    text, token_id, kept = new_token(lambda count: bytes([number]) * count)
    fields.setdefault("scopes", ["read", "write"])
    return text, Credential(id=token_id, tenant_id=tenant, hash=kept, **fields)


def refusal(call: Any) -> Reason:
    with pytest.raises(Refused) as refused:
        call()
    assert str(refused.value) == "no credential, or none that is valid"
    return refused.value.reason


# -- static tokens


def test_a_token_is_its_tenants() -> None:
    text, credential = made()
    assert text.startswith(f"mz_{'01' * 8}_")
    assert text.split("_")[2] not in repr(credential)
    found = check_token(text, catalog(credential), NOW)
    assert (found.tenant, found.tenant_name, found.credential) == (A, "a", "01" * 8)
    assert found.scopes == Scopes.READ | Scopes.WRITE
    assert not found.is_operator


def test_an_operators_token_belongs_to_no_tenant() -> None:
    text, credential = made(b"", scopes=["admin"])
    found = check_token(text, catalog(credential), NOW)
    assert found.is_operator
    assert scope_names(found.scopes) == ["admin"]


def test_why_tokens_are_refused() -> None:
    text, credential = made()
    known = catalog(credential)
    assert refusal(lambda: check_token(f"{text[:-1]}0", known, NOW)) is Reason.UNKNOWN
    assert refusal(lambda: check_token(text, catalog(), NOW)) is Reason.UNKNOWN
    for wrong in ("", "mz_", text + "0", f" {text}", text.replace("_", "-"), text + "\n"):
        assert refusal(lambda wrong=wrong: check_token(wrong, known, NOW)) is Reason.MALFORMED
    _, revoked = made(revoked=True)
    assert refusal(lambda: check_token(text, catalog(revoked), NOW)) is Reason.REVOKED
    _, short = made(expires_s=NOW)
    assert refusal(lambda: check_token(text, catalog(short), NOW)) is Reason.EXPIRED
    assert check_token(text, catalog(short), NOW - 1).expires_s == NOW
    _, orphan = made(GONE)
    assert refusal(lambda: check_token(text, catalog(orphan), NOW)) is Reason.TENANT
    # A wrong secret of a revoked token tells nothing about it.
    assert refusal(lambda: check_token(f"{text[:-1]}0", catalog(revoked), NOW)) is Reason.UNKNOWN


def test_unknown_ids_are_compared_like_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Structure, not stopwatch: one hash and one comparison, whatever is known of the id."""
    compared: list[int] = []
    real = hmac.compare_digest
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda a, b: compared.append(len(b)) or real(a, b))
    text, credential = made()
    check_token(text, catalog(credential), NOW)
    refusal(lambda: check_token(text, catalog(), NOW))
    refusal(lambda: check_token("mz_nonsense", catalog(), NOW))
    assert compared == [32, 32, 32]


def test_scopes_that_mean_nothing_are_none() -> None:
    assert scopes_of(["read", "everything"]) is Scopes.READ
    assert scopes_of([]) is Scopes.NONE


# -- JSON Web Tokens

ED, EC = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
RULES = JwtRules(("EdDSA", "ES256", "RS256"), audience="mezzo", issuer="https://id.example")


def jwk(private: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        raw = private.public_key().public_bytes_raw()
        entry = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}
    elif isinstance(private, rsa.RSAPrivateKey):
        entry = json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))
    else:
        entry = json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
    entry.pop("key_ops", None)
    if kid is not None:
        entry["kid"] = kid
    return {**entry, **fields}


def key_set(*entries: Mapping[str, Any]) -> Sequence[PublicKey]:
    return parse_key_set(json.dumps({"keys": entries}).encode())


KEYS = key_set(jwk(ED, "ed"), jwk(EC, "ec"))


def claims(**changed: Any) -> dict[str, Any]:
    told = {
        "iss": "https://id.example",
        "aud": "mezzo",
        "exp": NOW + 600,
        "tenant": "a",
        "scope": "read write openid",
        "sub": "engine-7",
    }
    return {name: value for name, value in {**told, **changed}.items() if value is not None}


def signed(private: Any = ED, algorithm: str = "EdDSA", kid: str | None = "ed", **changed: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return pyjwt.encode(claims(**changed), private, algorithm=algorithm, headers=headers)


def checked(text: str, rules: JwtRules = RULES, keys: Sequence[PublicKey] = KEYS) -> Principal:
    return check_jwt(text, rules, keys, catalog(), NOW)


def test_a_jwt_is_of_the_tenant_that_it_claims() -> None:
    found = checked(signed())
    assert (found.tenant, found.credential) == (A, "jwt:engine-7")
    assert found.scopes == Scopes.READ | Scopes.WRITE
    assert NOW + 600 <= found.expires_s <= NOW + 610
    assert checked(signed(EC, "ES256", "ec", aud=["other", "mezzo"], scope=["admin"])).scopes is Scopes.ADMIN
    assert checked(signed(sub=7, jti=7)).credential == "jwt"
    prefixed = JwtRules(("EdDSA",), "mezzo", "https://id.example", scopes_prefix="mezzo:")
    assert checked(signed(scope="read mezzo:write"), prefixed).scopes is Scopes.WRITE


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": NOW - 10}, Reason.EXPIRED),
        ({"exp": None}, Reason.CLAIMS),
        ({"exp": "soon"}, Reason.CLAIMS),
        ({"exp": True}, Reason.CLAIMS),
        ({"nbf": NOW + 60}, Reason.NOT_YET),
        ({"iat": NOW + 60}, Reason.NOT_YET),
        ({"aud": "other"}, Reason.AUDIENCE),
        ({"aud": None}, Reason.CLAIMS),
        ({"iss": "https://evil.example"}, Reason.ISSUER),
        ({"iss": "https://id"}, Reason.ISSUER),
        ({"iss": None}, Reason.CLAIMS),
        ({"tenant": None}, Reason.CLAIMS),
        ({"tenant": ["a"]}, Reason.CLAIMS),
        ({"tenant": "gone"}, Reason.TENANT),
        ({"tenant": "nobody"}, Reason.TENANT),
        ({"scope": None}, Reason.CLAIMS),
        ({"scope": 7}, Reason.CLAIMS),
    ],
)
def test_why_a_jwt_is_refused(changed: dict[str, Any], reason: Reason) -> None:
    assert refusal(lambda: checked(signed(**changed))) is reason


def unsigned(header: Mapping[str, Any], secret: bytes = b"") -> str:
    def part(value: Mapping[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = part(header) + b"." + part(claims())
    mac = hmac.new(secret, body, hashlib.sha256).digest() if secret else b""
    return (body + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def test_a_token_does_not_choose_how_it_is_checked() -> None:
    for name in ("none", "None", "NONE", ""):
        assert refusal(lambda name=name: checked(unsigned({"alg": name, "kid": "ed"}))) is Reason.SIGNATURE
    # The public key as the secret of an HMAC, in the forms that an attacker would try.
    public = ED.public_key()
    for secret in (
        public.public_bytes_raw(),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ):
        forged = unsigned({"alg": "HS256", "kid": "ed"}, secret)
        assert refusal(lambda forged=forged: checked(forged)) is Reason.SIGNATURE
    with pytest.raises(InvalidArgument, match="HS256"):
        JwtRules(("HS256",), "mezzo", "i")
    with pytest.raises(InvalidArgument):
        JwtRules(("none",), "mezzo", "i")
    with pytest.raises(InvalidArgument):
        JwtRules(("EdDSA",), "", "i")
    # Right signature, of an algorithm that is not configured, or with the key of another algorithm.
    only_ec = JwtRules(("ES256",), "mezzo", "https://id.example")
    assert refusal(lambda: checked(signed(), only_ec)) is Reason.SIGNATURE
    with pytest.raises(UnknownKey):
        checked(signed(EC, "ES256", "ed"))
    stranger = ed25519.Ed25519PrivateKey.generate()
    assert refusal(lambda: checked(signed(stranger))) is Reason.SIGNATURE
    own_key = pyjwt.encode(
        claims(), stranger, algorithm="EdDSA", headers={"kid": "ed", "jwk": jwk(stranger, "ed")}
    )
    assert refusal(lambda: checked(own_key)) is Reason.SIGNATURE
    critical = pyjwt.encode(claims(), ED, algorithm="EdDSA", headers={"kid": "ed", "crit": ["x"], "x": 1})
    assert refusal(lambda: checked(critical)) is Reason.MALFORMED


def test_a_token_without_a_key_id_needs_an_unambiguous_key() -> None:
    assert checked(signed(kid=None)).tenant == A
    with pytest.raises(UnknownKey):
        checked(signed(kid=None), keys=key_set(jwk(ED, "one"), jwk(ED, "two")))
    with pytest.raises(UnknownKey):
        checked(signed(kid="never"))


@settings(max_examples=30)
@given(
    st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.urlsafe_b64encode(data).decode())
)
def test_no_text_of_strangers_passes(text: str) -> None:
    for attempt in (text, f"{text}.{text}.{text}"):
        with pytest.raises(Refused):
            checked(attempt)
    with pytest.raises(Refused):
        checked("x" * 100_000)


def test_a_key_set_has_what_is_of_use() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    keys = key_set(
        jwk(ED, "ed"),
        jwk(EC, "ec", alg="ES256", key_ops=["verify"]),
        jwk(EC, "wrong", alg="RS256"),
        jwk(weak, "weak"),
        jwk(ED, "enc", use="enc"),
        jwk(ED, "signs", key_ops=["sign"]),
        jwk(ED, "odd", key_ops="verify"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "x"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"},
        {"kty": ["RSA"], "kid": {}},
        {"kty": "OKP", "crv": ["Ed25519"]},
        {},
    )
    assert [(key.id, key.algorithms) for key in keys] == [("ed", ("EdDSA",)), ("ec", ("ES256",))]
    for data in (
        b"",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": []}',
        b'{"keys": [{}]}',
        b"x" * 300_000,
        b"[" * 9999,
        b'{"keys": [{"kid": "\xff"}]}',
    ):
        with pytest.raises(InvalidArgument):
            parse_key_set(data)
    with pytest.raises(InvalidArgument, match="128 keys"):
        parse_key_set(json.dumps({"keys": [{}] * 129}).encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_set_or_none(data: bytes) -> None:
    try:
        parse_key_set(data)
    except InvalidArgument:
        return


# -- certificates


def certificate(*names: x509.GeneralName | x509.ExtensionType, pem: bool = True) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(EC.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=1))
    )
    if names:
        odd = names[0] if isinstance(names[0], x509.ExtensionType) else None
        builder = builder.add_extension(odd or x509.SubjectAlternativeName(names), critical=False)
    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    return builder.sign(EC, hashes.SHA256()).public_bytes(encoding)


URI, DNS = x509.UniformResourceIdentifier, x509.DNSName


def test_the_tenant_of_a_certificate() -> None:
    by_uri = CertificateRule("spiffe://pod.example/tenant/{tenant}")
    assert (
        by_uri.tenant(certificate(DNS("host"), URI("spiffe://pod.example/tenant/team.a_1-x"))) == "team.a_1-x"
    )
    assert by_uri.tenant(certificate(URI("spiffe://pod.example/tenant/a"), pem=False)) == "a"
    by_dns = CertificateRule("{tenant}.tenants.example")
    assert by_dns.tenant(certificate(DNS("A.Tenants.Example"))) == "a"
    nested = CertificateRule("spiffe://pod.example/t/{tenant}/engine")
    assert nested.tenant(certificate(URI("spiffe://pod.example/t/a/engine"))) == "a"


@pytest.mark.parametrize(
    "names",
    [
        (),
        (URI("spiffe://pod.example/tenant/a/b"),),
        (URI("spiffe://pod.example/tenant/"),),
        (URI("spiffe://pod.example/tenant/a\n"),),
        (URI("spiffe://pod.example.evil/tenant/a"),),
        (URI("xspiffe://pod.example/tenant/a"),),
        (URI("spiffe://podXexample/tenant/a"),),
        (URI("spiffe://pod.example/tenant/../a"),),
        (DNS("spiffe://pod.example/tenant/a"),),
        (URI("spiffe://pod.example/tenant/a"), URI("spiffe://pod.example/tenant/b")),
    ],
)
def test_certificates_that_name_no_tenant(names: Sequence[x509.GeneralName]) -> None:
    rule = CertificateRule("spiffe://pod.example/tenant/{tenant}")
    assert refusal(lambda: rule.tenant(certificate(*names))) is Reason.CERTIFICATE


@pytest.mark.parametrize(
    "names",
    [
        b"\x30\x04\xa5\x02\x30\x00",  # an ediPartyName, a kind that nobody reads
        b"\x30\x03\x82\x01\xff",  # a DNS name that is no ASCII
        b"\x30\x04\x87\x02\x01\x02",  # an address of two bytes
        b"\xff",
    ],
)
def test_names_that_cannot_be_read_are_nobodys(names: bytes) -> None:
    """An authority may have signed them: the handshake looks at the chain, and not at these."""
    odd = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names)
    for rule in ("spiffe://pod.example/tenant/{tenant}", "{tenant}.tenants.example"):
        assert refusal(lambda rule=rule: CertificateRule(rule).tenant(certificate(odd))) is Reason.CERTIFICATE


def test_a_label_is_no_domain() -> None:
    rule = CertificateRule("{tenant}.tenants.example")
    for name in ("a.evil.tenants.example", "tenants.example", "a.tenants.example.evil", "axtenants.example"):
        assert refusal(lambda name=name: rule.tenant(certificate(DNS(name)))) is Reason.CERTIFICATE
    assert refusal(lambda: rule.tenant(certificate(URI("a.tenants.example")))) is Reason.CERTIFICATE
    assert refusal(lambda: rule.tenant(b"no certificate")) is Reason.CERTIFICATE
    assert refusal(lambda: rule.tenant(b"-----BEGIN CERTIFICATE-----\n")) is Reason.CERTIFICATE
    assert refusal(lambda: rule.tenant(bytes(1 << 20))) is Reason.CERTIFICATE


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "{tenant}",
        "tenant",
        "spiffe://{tenant}",
        "spiffe://{tenant}/x",
        "spiffe://a/x{tenant}",
        "spiffe://a/{tenant}x",
        "{tenant}x.example",
        "x{tenant}.example",
        "example.{tenant}",
        "spiffe://a/{tenant}/{tenant}",
        "{tenant}://a/b",
    ],
)
def test_rules_that_would_match_too_much(rule: str) -> None:
    with pytest.raises(InvalidArgument):
        CertificateRule(rule)


# -- the chain


class Sets:
    def __init__(self, keys: Sequence[PublicKey] = (), newer: Sequence[PublicKey] = ()) -> None:
        self.keys = keys
        self.newer = newer
        self.looks = 0

    async def look(self) -> bool:
        self.looks += 1
        self.keys, looked = self.newer or self.keys, bool(self.newer)
        return looked


TEXT, TOKEN = made()
KNOWN = catalog(TOKEN)
BOTH = Certificates(CertificateRule("{tenant}.tenants.example"), Scopes.READ)


def chain(
    *,
    known: Catalog | None = KNOWN,
    anonymous: str = "",
    sets: Sets | None = None,
    mtls: bool = True,
) -> Authentication:
    return Authentication(
        lambda: known,
        now_s=lambda: NOW,
        anonymous=Anonymous(anonymous, Scopes.READ) if anonymous else None,
        jwt_rules=RULES,
        key_sets=sets or Sets(KEYS),
        certificates=BOTH if mtls else None,
    )


def who(chain: Authentication, *headers: str, pem: bytes | None = None) -> Principal:
    return asyncio.run(chain.principal(headers, pem))


def test_the_order_of_the_chain() -> None:
    cert_a, cert_b = certificate(DNS("a.tenants.example")), certificate(DNS("b.tenants.example"))
    asked = chain(anonymous="b")
    assert who(asked).tenant == B
    assert who(asked, pem=cert_a).tenant == A
    assert who(asked, f"Bearer {TEXT}").tenant == A
    assert who(asked, f"bearer  {TEXT}", pem=cert_a).credential == TOKEN.id
    assert who(asked, f"Bearer {signed(tenant='b')}").tenant == B
    # Somebody who brings something wrong is nobody, and not the next in the line.
    assert refusal(lambda: who(asked, "Bearer mz_0_0")) is Reason.MALFORMED
    assert refusal(lambda: who(asked, f"Basic {TEXT}")) is Reason.MALFORMED
    assert refusal(lambda: who(asked, f"Bearer {TEXT}", f"Bearer {TEXT}")) is Reason.MALFORMED
    assert refusal(lambda: who(asked, "")) is Reason.MALFORMED
    assert refusal(lambda: who(asked, pem=certificate(DNS("host.example")))) is Reason.CERTIFICATE
    assert refusal(lambda: who(asked, f"Bearer {TEXT}", pem=cert_b)) is Reason.OTHER_TENANT
    assert refusal(lambda: who(chain())) is Reason.MISSING
    assert refusal(lambda: who(chain(anonymous="nobody"))) is Reason.TENANT
    assert refusal(lambda: who(chain(mtls=False), pem=cert_a)) is Reason.MISSING
    counts = asked.counts
    assert (counts["token", "ok"], counts["jwt", "ok"], counts["certificate", "ok"]) == (2, 1, 1)
    assert (counts["token", "malformed"], counts["jwt", "malformed"]) == (1, 3)
    assert counts["token", "other_tenant"] == 1


def test_newer_keys_are_looked_for() -> None:
    rotated = Sets(key_set(jwk(EC, "old")), newer=KEYS)
    assert who(chain(sets=rotated), f"Bearer {signed()}").tenant == A
    assert rotated.looks == 1
    with pytest.raises(UnknownKey):
        who(chain(sets=rotated), f"Bearer {signed(kid='never')}")
    with pytest.raises(Unavailable):
        who(chain(sets=Sets()), f"Bearer {signed()}")


def test_a_credential_that_is_new_is_looked_for() -> None:
    seen, looks = [catalog()], []

    async def look() -> None:
        looks.append(1)
        seen[0] = catalog(TOKEN)

    asked = Authentication(lambda: seen[0], now_s=lambda: NOW, look=look)
    assert who(asked, f"Bearer {TEXT}").tenant == A
    assert who(asked, f"Bearer {TEXT}").tenant == A
    assert len(looks) == 1
    # A wrong secret is looked for like an unknown id: nobody can tell them apart by that.
    assert refusal(lambda: who(asked, f"Bearer {TEXT[:-1]}0")) is Reason.UNKNOWN
    assert refusal(lambda: who(asked, f"Bearer mz_{'9' * 16}{TEXT[19:]}")) is Reason.UNKNOWN
    assert len(looks) == 3
    assert refusal(lambda: who(asked, "Bearer mz_nonsense")) is Reason.MALFORMED
    assert len(looks) == 3


def test_strangers_that_wait_for_a_look_are_few() -> None:
    async def play() -> None:
        release = asyncio.Event()

        async def look() -> None:
            await release.wait()

        asked = Authentication(lambda: KNOWN, now_s=lambda: NOW, look=look)
        made_up = [f"Bearer mz_{number:016x}{TEXT[19:]}" for number in range(100, 140)]
        tasks = [asyncio.ensure_future(asked.principal([header], None)) for header in made_up]
        await asyncio.sleep(0)
        assert sum(task.done() for task in tasks) == 40 - LOOKERS_MAX
        assert (await asked.principal([f"Bearer {TEXT}"], None)).tenant == A
        release.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, Refused) for outcome in outcomes)

    asyncio.run(play())


def test_without_a_catalog_nobody_is_anybody() -> None:
    asked = chain(known=None, anonymous="a")
    for headers in ((), (f"Bearer {TEXT}",), (f"Bearer {signed()}",)):
        with pytest.raises(Unavailable):
            who(asked, *headers)
    assert asked.counts["token", "unavailable"] == 1
