"""A configuration with every kind of mistake: each is one error that says what, where, and what is right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument, MezzoError
from mezzo_server.config import NodeConfig, keys, load

BIG = "9" * 30

# What stands in the file; words of the message, in their order.
MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    # no TOML
    "syntax": ("[shard]\ndepth = =", ("node.toml", "not valid TOML", "line 2")),
    "no table closed": ("[shard\ndepth = 3", ("node.toml", "not valid TOML", "line 1")),
    "no value": ("[shard]\ndepth\n", ("not valid TOML", "line 2")),
    "key twice": ("[shard]\ndepth = 3\ndepth = 4\n", ("twice", "line 3")),
    "table twice": ("[shard]\ndepth = 3\n[shard]\nworkers = 4", ("twice", "line 3")),
    "deep": ("a = " + "[" * 9000, ("not valid TOML", "deep")),
    "a number of ten thousand digits": ("[shard]\ndepth = " + "9" * 10000, ("not valid TOML",)),
    "a day that is not": ("[shard]\ndepth = 2024-02-31", ("not valid TOML",)),
    "JSON": ('{"shard": {"depth": 3}}', ("not valid TOML", "line 1")),
    # names
    "unknown key": ("[shard]\ndept = 3", ("unknown key 'dept' in [shard]", "'depth'")),
    "unknown key deeper": ("[shard.limits]\nrequest_max = 3", ("[shard.limits]", "'requests_max'")),
    "unknown table": ("[shrad]\ndepth = 3", ("unknown key 'shrad'", "'shard'")),
    "unknown, like one elsewhere": ("[log]\ncapacity_byte = 3", ("[log]", "'shard.capacity_bytes'")),
    "nothing like it": ("[shard]\n'' = 3", ("unknown key ''",)),
    "quoted dots": ("'shard.depth' = 3", ("unknown key 'shard.depth'",)),
    "key before the tables": ("devices = ['/a']", ("'devices' belongs into [shard]", "before the first")),
    "key in a wrong table": (
        "[frontend]\ndevices = ['/a']",
        ("'devices' belongs into [shard]", "[frontend]"),
    ),
    "key of two tables": ("listen = 'x'", ("'listen' belongs into [shard] or [frontend]",)),
    "table too high": ("[limits]\nkeys_max = 3", ("[limits] is [shard.limits]",)),
    "table too deep": ("[shard.frontend]\nlisten = 'x'", ("[shard.frontend] is [frontend]",)),
    # kinds
    "table for a value": ("[shard.depth]\nx = 1", ("shard.depth is a value, not a table", "whole number")),
    "value for a table": ("shard = 3", ("shard is a table", "[shard]")),
    "value for a deeper table": ("[shard]\nlimits = 3", ("shard.limits is a table",)),
    "tables for a list": ("[[shard.devices]]\npath = '/a'", ("shard.devices", "list of texts")),
    "text for a number": ("[shard]\ndepth = '3'", ("shard.depth: '3'", "whole number")),
    "fraction for a whole number": ("[shard]\ndepth = 3.0", ("shard.depth: 3", "whole number")),
    "truth for a number": ("[shard]\ndepth = true", ("shard.depth: true", "whole number")),
    "number for a truth": ("[shard]\ninsecure = 1", ("shard.insecure: 1", "true or false")),
    "text for a truth": ("[shard]\ninsecure = 'yes'", ("shard.insecure: 'yes'", "true or false")),
    "number for a text": ("[frontend]\nlisten = 7710", ("frontend.listen: 7710", "a text")),
    "text for a list": ("[shard]\ndevices = '/a'", ("shard.devices: '/a'", "list of texts")),
    "numbers in a list": ("[shard]\ndevices = [1]", ("shard.devices: [1]", "list of texts")),
    "date": ("[shard]\ndepth = 2024-01-01", ("shard.depth", "whole number")),
    # a pod
    "a pod of nobody": ("[pod]\nenabled = true", ("pod.enabled needs metadata.engine", "etcd://")),
    "a pod at no address": (
        "pod.enabled = true\nmetadata.engine = 'etcd://e:2379/m'\nshard.listen = ['tcp://0.0.0.0:7700']",
        ("tcp://0.0.0.0:7700", "pod.host"),
    ),
    "a pod told of no address": (
        "[pod]\nenabled = true\nadvertise = ['tcp://0.0.0.0:7700']\n[metadata]\nengine = 'etcd://e:2379/m'",
        ("pod.advertise: tcp://0.0.0.0:7700",),
    ),
    "a node of no name": (
        "[pod]\nenabled = true\nnode = ' n'\n[metadata]\nengine = 'etcd://e:2379/m'",
        ("pod.node: ' n' is no name",),
    ),
    "too many slots": ("[pod]\nslots_log2 = 20", ("pod.slots_log2: 20", "18")),
    # a metadata service
    "a service over nothing": ("[metadata_service]\nenabled = true", ("metadata_service.engine", "etcd://")),
    "a service over a service": (
        "[metadata_service]\nenabled = true\n[metadata]\nengine = 'mezzo://127.0.0.1'",
        ("metadata.engine: mezzo://127.0.0.1 is a metadata service itself", "metadata_service.engine"),
    ),
    "a secret for shards alone": (
        "[metadata_service]\nenabled = true\nengine = 'memory:'\nshard_secret_file = '/s'",
        ("metadata_service.secret_file",),
    ),
    "one secret for all": (
        "[metadata_service]\nenabled = true\nengine = 'memory:'\nshard_secret_file = '/s'\nsecret_file = '/s'",
        ("are both /s",),
    ),
    "certificates without TLS": (
        "[metadata_service]\nenabled = true\nengine = 'memory:'\nclient_ca = '/ca'",
        ("metadata_service.client_ca", "tls.certificate"),
    ),
    "a service for everybody": (
        "[metadata_service]\nenabled = true\nengine = 'memory:'\nlisten = '10.0.0.7:7713'",
        ("is not encrypted", "metadata_service.secret_file", "metadata_service.insecure"),
    ),
    "a service in the way of a front-end": (
        "[metadata_service]\nenabled = true\nengine = 'memory:'\nlisten = '127.0.0.1:7710'",
        ("frontend.listen", "metadata_service.listen"),
    ),
    "a secret in the clear": (
        "[metadata]\nengine = 'mezzo://10.0.0.1?secret_file=/s'",
        ("mezzos://", "insecure=yes"),
    ),
    "a service in a folder": ("[metadata]\nengine = 'mezzo://10.0.0.1/mezzo'", ("has a folder",)),
    "a word that is none": ("[metadata]\nengine = 'mezzo://h?insecure=no'", ("?insecure= is yes",)),
    "an etcd without a folder": ("[metadata]\nengine = 'etcd://e:2379'", ("as in /mezzo",)),
    "a port that is none": ("[metadata]\nengine = 'etcd://e:x/m'", ("'e:x' is no host and port",)),
    "the same twice": ("[metadata]\nengine = 'mezzo://h,h:7713'", ("stand in it twice",)),
    "a key alone": ("[metadata]\nengine = 'mezzos://h?key=/k'", ("a key its certificate",)),
    # values
    "zero": ("[shard]\ndepth = 0", ("shard.depth: 0 is not allowed", "at least 1, at most 4096")),
    "negative": ("[shard]\ncapacity_bytes = -1", ("shard.capacity_bytes: -1", "at least 0")),
    "too much": ("[shard]\nworkers = 65", ("shard.workers: 65", "at most 64")),
    "huge": (f"[shard]\ncapacity_bytes = {BIG}", ("shard.capacity_bytes: 99999", "whole number")),
    "no number": ("[supervisor]\nstart_s = nan", ("supervisor.start_s: nan", "seconds, a number")),
    "endless": ("[supervisor]\nstart_s = inf", ("supervisor.start_s: inf", "seconds")),
    "zero seconds": ("[supervisor]\nstart_s = 0", ("supervisor.start_s: 0", "more than 0")),
    "choice": (
        "[shard]\npolicy = 'best'",
        ("shard.policy: 'best'", "one of density, fifo, lru, s3fifo, sieve"),
    ),
    "choice in capitals": ("[log]\nlevel = 'INFO'", ("log.level: 'INFO'", "debug, info, warning, error")),
    "share": ("[shard.hot]\nheld_fraction = 1.5", ("shard.hot.held_fraction: 1.5", "at most 1")),
    "size": ("[shard]\ncapacity_bytes = 'many'", ("shard.capacity_bytes: 'many'", '"64MiB"')),
    "size out of range": (
        "[shard.hot]\narena_bytes = '1KiB'",
        ("shard.hot.arena_bytes", "1KiB", "at least 1MiB"),
    ),
    "duration": ("[supervisor]\nstop_s = 'soon'", ("supervisor.stop_s: 'soon'", '"5min"')),
    "fraction of a millisecond": ("[shard.limits]\nlease_ms_max = '1.5ms'", ("lease_ms_max: '1.5ms'",)),
    "zero byte": ('[shard.hot]\nbytes = "\\u0000"', ("shard.hot.bytes", "not allowed")),
    "zero byte in a path": ('[shard]\ndevices = ["/a\\u0000b"]', ("shard.devices", "not allowed")),
    "more than an address": (
        "[shard]\nlisten = ['tcp://a@127.0.0.1:1?b']",
        ("shard.listen", "tcp://a@127.0.0.1:1?b", "tcp://host:port"),
    ),
    "long": (f"[shard]\npolicy = '{'x' * 500}'", ("...", "fifo, lru, s3fifo, sieve")),
    # together
    "no address": ("[shard]\nlisten = []", ("shard.listen", "at least one address")),
    "no such scheme": ("[shard]\nlisten = ['http://x:1']", ("shard.listen", "http://x:1", "tcp://host:port")),
    "socket's path": (f"[shard]\nlisten = ['unix:///{'x' * 200}']", ("shard.listen", "107")),
    "port too high": ("[frontend]\nlisten = '127.0.0.1:70000'", ("frontend.listen", "70000")),
    "no port": ("[metrics]\nshard = '127.0.0.1'", ("metrics.shard", "host:port")),
    "scheme where none is": ("[frontend]\nlisten = 'http://a:1'", ("frontend.listen", "host:port")),
    "shard of the front-end": ("[frontend]\nshard = 'x'", ("frontend.shard", "'x'", "unix:///path")),
    "device twice": ("[shard]\ndevices = ['/a', '/b', '/a']", ("shard.devices", "/a", "twice")),
    "no port left": ("[frontend]\nlisten = '127.0.0.1:65535'", ("65535", "frontend.admin_listen")),
    "address twice": (
        "[shard]\nlisten = ['tcp://127.0.0.1:1', 'tcp://127.0.0.1:1']",
        ("shard.listen[1] and shard.listen[0]", "tcp://127.0.0.1:1"),
    ),
    "admin port taken": (
        "[shard]\nlisten = ['tcp://127.0.0.1:7711']",
        ("admin port of frontend.listen and shard.listen", "7711"),
    ),
    "metrics port taken": (
        "[metrics]\nshard = '127.0.0.1:7710'",
        ("metrics.shard and frontend.listen", "7710"),
    ),
    "metrics ports": ("[metrics]\nfrontend = '127.0.0.1:7720'", ("metrics.", "metrics.", "7720")),
    "wildcard": (
        "[shard]\nlisten = ['tcp://0.0.0.0:7720']\ninsecure = true",
        ("metrics.supervisor and shard.listen", "7720"),
    ),
    "open shard": (
        "[shard]\nlisten = ['tcp://0.0.0.0:7700']",
        ("shard.listen", "other hosts", "write tcps://0.0.0.0:7700", "shard.insecure"),
    ),
    "open shard over TLS": (
        "[shard]\nlisten = ['tcps://0.0.0.0:7700']\n[tls]\ncertificate = 'a'\nkey = 'b'",
        ("shard.listen: tcps://0.0.0.0:7700", "lets in callers without a credential", "shard.insecure"),
    ),
    "shard without a certificate": (
        "[shard]\nlisten = ['tcps://127.0.0.1:7700']",
        ("shard.listen", "tls.certificate and tls.key"),
    ),
    "certificate without its key": ("[tls]\ncertificate = 'a'", ("tls.certificate", "tls.key")),
    "key without its certificate": ("[tls]\nkey = 'a'", ("tls.key", "tls.certificate")),
    "clients signed by nobody": (
        "[tls]\nclient_certificates = 'required'",
        ("tls.client_certificates", "tls.client_ca"),
    ),
    "open front-end": ("[frontend]\nlisten = '10.0.0.1:1'", ("other hosts", "frontend.insecure")),
    "open admin port": (
        "[frontend]\nadmin_listen = 'node7:1'",
        ("frontend.admin_listen", "frontend.insecure"),
    ),
    "open metrics": ("[metrics]\nshard = '[::]:1'", ("metrics.shard", "other hosts", "metrics.insecure")),
    "staging": (
        "[shard.limits]\nstaging_bytes = '64MiB'",
        ("staging_connection_bytes_max", "shard.limits.staging_bytes"),
    ),
    "chunk": (
        "[shard.limits]\nchunk_bytes_max = 200000000",
        ("chunk_bytes_max", "staging_connection_bytes_max", "could never be put over tcp"),
    ),
    "hot tier of less than an arena": (
        "[shard.hot]\nbytes = '1MiB'",
        ("shard.hot.arena_bytes", "shard.hot.bytes"),
    ),
    "piece over message": (
        "[frontend]\npiece_bytes = '8MiB'",
        ("frontend.piece_bytes", "frontend.message_bytes_max"),
    ),
    "piece over memory": (
        "[frontend]\nstaging_bytes = '8KiB'",
        ("frontend.piece_bytes", "frontend.staging_bytes"),
    ),
    "put over memory": (
        "[frontend]\nput_bytes_max = '1GiB'",
        ("frontend.put_bytes_max", "frontend.staging_bytes"),
    ),
    "drain": ("[supervisor]\nstop_s = 5", ("frontend.drain_s", "supervisor.stop_s")),
    "backoff": ("[supervisor]\nbackoff_s_min = 60", ("backoff_s_min (60)", "backoff_s_max (30)")),
}


def told(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        load(path, environ)
    return str(caught.value)


def in_order(message: str, words: tuple[str, ...]) -> None:
    at = 0
    for word in words:
        found = message.find(word, at)
        assert found >= 0, f"{word!r} is not, or not in this place, in: {message}"
        at = found + len(word)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_file(tmp_path: Path, mistake: str) -> None:
    text, words = MISTAKES[mistake]
    file = tmp_path / "node.toml"
    file.write_text(text)
    message = told(file)
    in_order(message, words)
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("MEZZO_SHARD_LISTENS", "x", ("environment", "MEZZO_SHARD_LISTENS", "MEZZO_SHARD_LISTEN")),
        ("MEZZO_SHARD_DEPTH", "many", ("MEZZO_SHARD_DEPTH", "shard.depth: 'many'", "whole number")),
        ("MEZZO_SHARD_DEPTH", "", ("MEZZO_SHARD_DEPTH", "''", "whole number")),
        ("MEZZO_SHARD_DEPTH", "0", ("MEZZO_SHARD_DEPTH", "at least 1")),
        ("MEZZO_SHARD_DEPTH", BIG * 200, ("MEZZO_SHARD_DEPTH", "...", "at least 1")),
        ("MEZZO_FRONTEND_ENABLED", "perhaps", ("MEZZO_FRONTEND_ENABLED", "true or false")),
        ("MEZZO_SHARD_LIMITS_LEASED_FRACTION", "nan", ("leased_fraction", "number")),
        ("MEZZO_LOG_LEVEL", "loud", ("log.level: 'loud'", "debug")),
        ("MEZZO_SHARD_HOT_BYTES", "1.5", ("shard.hot.bytes: '1.5'",)),
    ],
)
def test_mistakes_in_the_environment(variable: str, text: str, words: tuple[str, ...]) -> None:
    in_order(told(environ={variable: text}), words)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    in_order(told(tmp_path / "nowhere.toml"), ("nowhere.toml", "No such file"))
    in_order(told(tmp_path), ("cannot read", "directory"))
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * 2_000_000)
    in_order(told(big), ("big.toml", "1048576 bytes"))
    latin = tmp_path / "latin.toml"
    latin.write_bytes("[shard]\n# für\n".encode("latin-1"))
    in_order(told(latin), ("latin.toml", "not UTF-8", "0xfc", "line 2"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(bytes(range(128)))
    in_order(told(binary), ("binary.toml", "not valid TOML"))
    in_order(told(Path("a\0b")), ("cannot read",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_others_own(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.touch(0o000)
    in_order(told(file), ("node.toml", "Permission denied"))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b"\xef\xbb\xbf[shard]\ndepth = 3\n")
    assert load(file).shard.depth == 3


# ---- anything at all: a valid configuration, or one error of ours

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NAMES = st.sampled_from([name for key in keys() for name in key.split(".")]) | TEXTS
VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from(["64MiB", "5min", "tcp://127.0.0.1:1", "unix:///a", "127.0.0.1:65535", "auto", "lru"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)
TABLES = st.dictionaries(
    st.sampled_from(["shard", "frontend", "metrics", "log", "supervisor"]) | TEXTS,
    st.dictionaries(NAMES, VALUES, max_size=4) | VALUES,
    max_size=4,
)


def taken_or_refused(loaded: Callable[[], NodeConfig]) -> None:
    try:
        config = loaded()
    except MezzoError:
        return  # pytest shows any other error
    assert isinstance(config, NodeConfig)


def name(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


@given(TABLES)
@example({"shard": {"depth": {}}})
@settings(max_examples=300)
def test_any_tables_are_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, object]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes("".join(f"{name(key)} = {toml(value)}\n" for key, value in tables.items()).encode())
    taken_or_refused(lambda: load(file))


@given(st.binary(max_size=60) | st.text(alphabet="[]{}=\"'.#\n a0-:_shard", max_size=60).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_are_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.toml"
    file.write_bytes(raw)
    taken_or_refused(lambda: load(file))


@given(st.sampled_from(sorted(keys())), st.text(max_size=20))
@settings(max_examples=300)
def test_any_variable_is_taken_or_refused(name: str, text: str) -> None:
    taken_or_refused(lambda: load(environ={keys()[name].variable: text}))
