"""`mezzo doctor` looks at key files: of encryption at rest, of JSON Web Tokens, of the pod."""

from __future__ import annotations

import json
from pathlib import Path

from mezzo_server.config import (
    AccessConfig,
    EncryptionConfig,
    MetadataConfig,
    MetadataServiceConfig,
    NodeConfig,
)
from mezzo_server.config.schema import JwtConfig
from mezzo_server.doctor.finding import State
from mezzo_server.doctor.keys import examine_keys
from mezzo_server.tenancy.keys import write_master_key


def master(current: Path, *former: Path) -> NodeConfig:
    return NodeConfig(
        encryption=EncryptionConfig(master_key=str(current), former_master_keys=[str(one) for one in former])
    )


def tokens(source: str) -> NodeConfig:
    return NodeConfig(access=AccessConfig(jwt=JwtConfig(keys=source)))


def test_where_no_file_is_named_there_is_nothing_to_say() -> None:
    assert list(examine_keys(NodeConfig())) == []
    assert list(examine_keys(tokens("https://id.example/jwks.json"))) == []


def test_a_master_key_is_named_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    key = write_master_key(path)
    (found,) = examine_keys(master(path))
    assert found.state is State.GOOD
    assert key.id.hex() in found.seen
    (rest,) = examine_keys(master(path, path))
    assert rest.state is State.BETTER
    assert "rewrap" in rest.advice
    path.chmod(0o644)
    (open_to_all,) = examine_keys(master(path))
    assert (open_to_all.state, "mode 644" in open_to_all.seen) == (State.BROKEN, True)
    (lost,) = examine_keys(master(tmp_path / "lost.key"))
    assert (lost.state, "cannot read" in lost.seen) == (State.BROKEN, True)


def test_a_node_runs_without_the_keys_of_tokens_and_refuses_them(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    (missing,) = examine_keys(tokens(str(path)))
    assert (missing.state, "cannot read" in missing.seen) == (State.MISSING, True)
    path.write_text("{broken")
    (broken,) = examine_keys(tokens(str(path)))
    assert (broken.state, "no key set" in broken.seen) == (State.MISSING, True)
    coordinate = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    path.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": coordinate, "kid": "a"}]}))
    (good,) = examine_keys(tokens(str(path)))
    assert (good.state, "has 1 that" in good.seen) == (State.GOOD, True)


def test_secrets_of_the_pod_are_looked_at_where_they_are_asked_for_and_where_they_are_shown(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pod.secret"
    asks = MetadataServiceConfig(enabled=True, secret_file=str(path))
    shows = MetadataConfig(engine=f"mezzo://127.0.0.1?secret_file={path}")
    for config in (
        NodeConfig(metadata_service=asks),
        NodeConfig(metadata=shows),
        NodeConfig(metadata=shows, metadata_service=asks),
    ):
        path.unlink(missing_ok=True)
        (missing,) = examine_keys(config)
        assert (missing.state, "cannot read" in missing.seen) == (State.BROKEN, True)
        path.write_text("short")
        (short,) = examine_keys(config)
        assert (short.state, "32 to 512" in short.seen) == (State.BROKEN, True)
        path.write_text("a" * 64)
        path.chmod(0o644)
        (readable,) = examine_keys(config)
        assert (readable.state, readable.advice) == (State.BETTER, f"chmod 600 {path}")
        path.chmod(0o600)
        (good,) = examine_keys(config)
        assert (good.state, "has a secret" in good.seen) == (State.GOOD, True)
    assert list(examine_keys(NodeConfig(metadata_service=MetadataServiceConfig(secret_file=str(path))))) == []
