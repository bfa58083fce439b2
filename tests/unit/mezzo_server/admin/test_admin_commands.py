"""`mezzo tenant`, `namespace` and `credential`, on the metadata of a configuration."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mezzo.cli.app import make_app, run
from mezzo.errors import InvalidArgument, Unavailable
from mezzo_server.admin.local import LocalAdmin
from mezzo_server.commands import operator
from mezzo_server.config import MetadataConfig, NodeConfig
from mezzo_server.tenancy.model import Limit

LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}

MEZZO = get_command(make_app())


class Shell:
    """A folder with a configuration, and what commands in it say."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.config = folder / "mezzo.toml"
        self.config.write_text(f'[metadata]\nengine = "sqlite://{folder}/metadata.db"\n')
        self._capsys = capsys

    def mezzo(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error."""
        self._capsys.readouterr()
        assert run(lambda: MEZZO, [*arguments, "--config", str(self.config)]) == status
        said = self._capsys.readouterr()
        return said.out, said.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self.mezzo(*arguments, "--json")[0])


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in ("MEZZO_CONFIG", "MEZZO_ADMIN", "MEZZO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Shell(tmp_path, capsys)


def test_tenants(shell: Shell) -> None:
    shell.mezzo("credential", "issue", "--operator")
    assert "there is no tenant" in shell.mezzo("tenant", "list")[1]
    out, err = shell.mezzo(
        "tenant",
        "create",
        "acme",
        "--weight",
        "2",
        "--capacity",
        "1GiB:2GiB",
        "--requests",
        "1_000",
        "--ttl",
        "12h",
    )
    assert re.search(r"^  mz_[0-9a-f]{16}_\S{43}$", out, re.MULTILINE)
    assert "shown once" in err
    shown = shell.json("tenant", "show", "acme")
    assert shown["quota"]["capacity_bytes"] == {"soft": 1 << 30, "hard": 2 << 30}
    assert shown["quota"]["requests_per_s"] == {"soft": 0, "hard": 1000}
    assert (shown["weight"], shown["lifetime"]) == (2, {"ttl_s_default": 43200, "ttl_s_max": 0})
    changed = shell.json("tenant", "set", "acme", "--capacity", "none", "--ttl", "none", "--ttl-max", "7d")
    assert changed["quota"]["capacity_bytes"] == {"soft": 0, "hard": 0}
    assert changed["lifetime"] == {"ttl_s_default": 0, "ttl_s_max": 604800}
    table = shell.mezzo("tenant", "list")[0]
    assert table.splitlines()[0].split() == [
        "tenant", "weight", "capacity", "bytes/s", "requests/s", "ttl", "longest", "created",
    ]  # fmt: skip
    assert "7d" in table
    facts = shell.mezzo("tenant", "show", "acme")[0]
    assert re.search(r"credentials in force +1 ", facts)
    made = shell.json("tenant", "create", "other", "--no-issue")
    assert made["credential"] is None
    assert made["tenant"]["name"] == "other"
    shell.mezzo("tenant", "delete", "other", "--yes")
    assert [one["name"] for one in shell.json("tenant", "list")] == ["acme"]
    assert [one["deleted"] for one in shell.json("tenant", "list", "--deleted")] == [False, True]


def test_what_looks_makes_no_metadata(shell: Shell) -> None:
    """A file that was moved away would come back empty, and a node that follows it would know nobody."""
    for looks in (("tenant", "list"), ("credential", "list"), ("tenant", "delete", "acme", "--yes")):
        assert "metadata.db is not there: mezzo tenant create" in shell.mezzo(*looks, status=2)[1]
    assert [path.name for path in shell.folder.iterdir()] == ["mezzo.toml"]


def test_a_tenant_is_made_with_its_token_or_not_at_all(shell: Shell) -> None:
    shell.mezzo("credential", "issue", "--operator")
    said = shell.mezzo("tenant", "create", "acme", "--scopes", "read,erase", status=2)[1]
    assert "not erase" in said
    assert shell.json("tenant", "list") == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("a b",), "'a b' cannot be a tenant's name, which has 1 to 128 letters, digits and . _ -"),
        (("",), "cannot be a tenant's name"),
        (("acme", "--capacity", "2GiB:1GiB"), "the soft limit (2147483648) is over the hard one"),
        (("acme", "--ttl", "11600d"), "ttl_s_default: 1002240000 s are over 1000000000 s"),
    ],
)
def test_what_cannot_be_a_tenant(shell: Shell, arguments: tuple[str, ...], why: str) -> None:
    assert why in shell.mezzo("tenant", "create", *arguments, status=2)[1]


def test_what_cannot_be_undone_is_not_done_unasked(shell: Shell) -> None:
    issued = shell.json("tenant", "create", "acme")["credential"]
    for command in (
        ("tenant", "delete", "acme"),
        ("tenant", "rotate", "acme"),
        ("namespace", "purge", "acme", "default"),
        ("namespace", "delete", "acme", "default"),
        ("credential", "revoke", issued["id"]),
    ):
        assert "Say --yes: there is nobody to ask" in shell.mezzo(*command, status=2)[1]
    assert shell.json("tenant", "show", "acme")["deleted"] is False


def test_a_tenant_without_its_token_is_told_of(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*arguments: object, **options: object) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(LocalAdmin, "issue_credential", away)
    told = shell.mezzo("tenant", "create", "a", status=2)[1]
    assert "tenant a was made, and no token: mezzo credential issue a" in told
    assert [one["name"] for one in shell.json("tenant", "list")] == ["a"]


def test_credentials(shell: Shell) -> None:
    shell.mezzo("tenant", "create", "acme", "--no-issue")
    operators = shell.json("credential", "issue", "--operator", "--note", "me")
    assert (operators["tenant"], operators["scopes"], operators["note"]) == ("", ["admin"], "me")
    reader = shell.json("credential", "issue", "acme", "--scopes", "read", "--expires", "30d")
    assert reader["scopes"] == ["read"]
    assert reader["expires_s"] == pytest.approx(reader["created_s"] + 30 * 86400, abs=5)
    (new,) = shell.json("tenant", "rotate", "acme", "--overlap", "none", "--yes")
    assert new["token"] != reader["token"]
    listed = shell.json("credential", "list", "acme")
    assert {one["id"]: (one["revoked"], one["token"]) for one in listed} == {
        reader["id"]: (True, None),
        new["id"]: (False, None),
    }
    assert [one["id"] for one in shell.json("credential", "list", "--operator")] == [operators["id"]]
    shell.mezzo("credential", "revoke", new["id"], "--yes")
    table = shell.mezzo("credential", "list")[0]
    assert "(operators)" in table
    assert table.count("revoked") == 2
    assert "name a tenant, or say --operator" in shell.mezzo("credential", "issue", status=2)[1]
    assert "not 257" in shell.mezzo("credential", "issue", "acme", "--note", "x" * 257, status=2)[1]
    for both in (("issue", "acme", "--operator"), ("list", "acme", "--operator")):
        assert "operators belong to no tenant" in shell.mezzo("credential", *both, status=2)[1]


def test_namespaces(shell: Shell) -> None:
    shell.mezzo("tenant", "create", "acme")
    (shell.folder / "config.json").write_text(json.dumps(LLAMA))
    identity = ("--model", "org/m", "--layout", "NHD", "--shape", str(shell.folder))
    assert shell.mezzo("namespace", "open", "acme", "prod", *identity)[0] == "prod\n"
    told = shell.mezzo("namespace", "open", "acme", "prod", *identity, "--dtype", "fp8", status=2)[1]
    assert "kv_dtype is 'bf16', asked for was 'fp8'; chunk_bytes is 33554432, asked for was 16777216" in told
    named = shell.mezzo("namespace", "open", "acme", *identity, "--tp", "2", "--tp-rank", "1")[0].strip()
    assert re.fullmatch(r"m-bf16-[0-9a-f]{32}", named)
    shown = shell.json("namespace", "show", "acme", "prod")
    assert shown["identity"]["chunk_bytes"] == 256 * 131072
    assert shown["usage"] is None
    assert "tp 1/2" in shell.mezzo("namespace", "list", "acme")[0]
    assert re.search(r"chunk_bytes +33,554,432", shell.mezzo("namespace", "show", "acme", "prod")[0])
    assert shell.json("namespace", "set", "acme", "prod", "--ttl", "1h")["lifetime"]["ttl_s_default"] == 3600
    assert shell.json("namespace", "set", "acme", "prod", "--copies", "2")["copies"] == 2
    assert shell.json("namespace", "set", "acme", "prod", "--copies", "none")["copies"] == 0
    assert shell.json("tenant", "set", "acme", "--copies", "2")["copies"] == 2
    assert shell.json("namespace", "purge", "acme", "prod", "--yes")["generation"] == 1
    assert "purged prod" in shell.mezzo("namespace", "purge", "acme", "prod", "--yes")[0]
    shell.mezzo("namespace", "delete", "acme", "prod", "--yes")
    assert sorted(one["name"] for one in shell.json("namespace", "list", "acme")) == ["default", named]
    for wrong, why in (
        (("open", "acme"), "a name, or an identity"),
        (("open", "acme", "--model", "m", "--layout", "NHD"), "--chunk-bytes, or"),
        (("set", "acme", "default"), "--ttl, --ttl-max"),
        (("delete", "acme", "default", "--yes"), "it can be purged"),
    ):
        assert why in shell.mezzo("namespace", *wrong, status=2)[1]


def test_every_change_is_in_the_audit_log(shell: Shell) -> None:
    token = shell.json("tenant", "create", "acme")["credential"]["token"]
    shell.mezzo("tenant", "delete", "absent", "--yes", status=2)
    text = (shell.folder / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["event"], line["outcome"]) for line in lines] == [
        ("tenant.create", "done"), ("credential.issue", "done"), ("tenant.delete", "refused"),
    ]  # fmt: skip
    assert all(line["source"] == "local" and line["who"].startswith(("user:", "uid:")) for line in lines)
    assert token.rpartition("_")[2] not in text


def test_it_must_be_said_which_metadata(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: MEZZO, ["tenant", "list"]) == 2
    assert "--config mezzo.toml" in capsys.readouterr().err
    assert "not two: --config" in shell.mezzo("tenant", "list", "--admin", "127.0.0.1:1", status=2)[1]
    shell.config.write_text("[shard]\n")
    assert "[metadata] engine" in shell.mezzo("tenant", "list", status=2)[1]


def test_an_operators_token_is_not_sent_in_the_clear_to_another_host(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEZZO_TOKEN", "mz_0123456789abcdef_secret")
    assert run(make_app, ["tenant", "list", "--admin", "10.1.2.3:7711"]) == 2
    said = capsys.readouterr().err
    assert "in the clear" in said
    assert "secret" not in said


def test_what_a_command_says_counts_before_a_variable(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.mezzo("credential", "issue", "--operator")
    monkeypatch.setenv("MEZZO_ADMIN", "127.0.0.1:1")
    assert shell.json("tenant", "list") == []
    monkeypatch.setenv("MEZZO_CONFIG", str(shell.config))
    assert run(lambda: MEZZO, ["tenant", "list"]) == 2
    assert "not two" in capsys.readouterr().err
    monkeypatch.delenv("MEZZO_ADMIN")
    assert run(lambda: MEZZO, ["tenant", "list", "--admin", "127.0.0.1:1"]) == 2
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("none", Limit()),
        ("5", Limit(0, 5)),
        ("1:2", Limit(1, 2)),
        ("1:none", Limit(1, 0)),
        ("1:", Limit(1, 0)),
        ("none:2", Limit(0, 2)),
    ],
)
def test_limits(text: str, limit: Limit) -> None:
    assert operator.limit("--requests", text, int) == limit


@pytest.mark.parametrize("text", ["", "x", "-1", "1:x", "1.5"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--requests is HARD, SOFT:HARD or none: "):
        operator.limit("--requests", text, operator.count)


def test_times() -> None:
    assert [operator.seconds("--ttl", text) for text in (None, "none", "90s", "12h", "7d")] == [
        None,
        0,
        90,
        43200,
        604800,
    ]
    for text in ("0s", "1.5s", "soon"):
        with pytest.raises(InvalidArgument, match="--ttl"):
            operator.seconds("--ttl", text)
    assert [operator.shown_seconds(value) for value in (0, 59, 60, 7200, 172800)] == [
        "-",
        "59s",
        "1min",
        "2h",
        "2d",
    ]


def test_a_master_key_is_changed(shell: Shell, tmp_path: Path) -> None:
    first, second = tmp_path / "first.key", tmp_path / "second.key"
    for path in (first, second):
        assert run(lambda: MEZZO, ["key", "new", str(path)]) == 0
    metadata = shell.config.read_text()

    def settings(current: Path, *former: Path) -> None:
        listed = ", ".join(f'"{path}"' for path in former)
        shell.config.write_text(
            f'{metadata}\n[encryption]\nmaster_key = "{current}"\nformer_master_keys = [{listed}]\n'
        )

    assert "mezzo key new" in shell.mezzo("key", "rewrap", status=2)[1]
    settings(first)
    tenant = shell.json("tenant", "create", "secret", "--encrypted")["tenant"]
    assert tenant["encrypted"]
    settings(second)
    assert "former_master_keys" in shell.mezzo("key", "rewrap", status=2)[1]
    settings(second, first)
    rewrapped = shell.json("key", "rewrap")
    assert len(rewrapped["tenants"]) == 1
    settings(second)
    assert shell.json("key", "rewrap")["tenants"] == []
    settings(first)
    assert "former_master_keys" in shell.mezzo("key", "rewrap", status=2)[1]


def test_metadata_on_etcd_are_no_file_that_must_be_there() -> None:
    node = NodeConfig(metadata=MetadataConfig(engine="etcd://127.0.0.1:1/mezzo"))
    asyncio.run(operator.engine_of(node).close())
