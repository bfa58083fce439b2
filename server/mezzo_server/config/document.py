"""docs/configuration.md, made from the schema: ``mezzo config docs > docs/configuration.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from mezzo_server.config.keys import Key, keys, tables

OPENING = """\
# Configuration

<!-- Made by `mezzo config docs` from server/mezzo_server/config/schema.py; a test compares them. -->

One schema holds every setting of a node. Later wins: the defaults below, the TOML file of `--config`,
the environment, flags. `mezzo config show` prints what is in force and where each setting came from;
`mezzo config check FILE` says what is wrong with a file.

```toml
[shard]
devices = ["/var/lib/mezzo/chunks"]
capacity_bytes = "64GiB"
listen = ["unix:///run/mezzo/shard.sock", "tcp://127.0.0.1:7700"]

[shard.hot]
bytes = "4GiB"

[frontend]
listen = "127.0.0.1:7710"
```

- **Sizes** (keys with `bytes` in their name) are numbers of bytes or texts: `"512MiB"`, `"64 GiB"`, `"10GB"`.
  Bare letters are powers of 1024. **Durations** (`_s`, `_ms`) are numbers of that unit or texts: `"500ms"`,
  `"30s"`, `"5min"`, `"1h"`.
- A key, table or variable that is not in the schema is refused, with where it belongs or the nearest that
  exists. So are wrong types and values out of range, before anything is opened.
- Each key has an environment variable: `MEZZO_`, its table and its name in capitals. Lists are separated by
  commas, and truths are `true` or `false`. Variables that Kubernetes makes for services
  (`MEZZO_SHARD_SERVICE_HOST`, `MEZZO_SHARD_PORT_7700_TCP_ADDR`) are passed over.
- Settings are read once, at the start. `mezzo serve` hands them to its processes; SIGHUP changes nothing.
- A file has at most 1 MiB, in UTF-8.

Some rules hold between keys; an error names both:

- each address is used once, within the whole node (port 0 takes any free one); the front-end's admin port is the
  one after `frontend.listen`, unless `frontend.admin_listen` is set;
- an address that other hosts can reach must be encrypted (`tcps://` for a shard, `tls.certificate` for the front-end)
  and must refuse callers without a credential, or its table says `insecure = true`; metrics have neither;
- `tls.certificate` needs `tls.key`; `tcps://` needs both; `tls.client_certificates = "required"` needs `tls.client_ca`;
- a hot tier holds at least one arena for each shard: `shard.hot.arena_bytes` is at most `shard.hot.bytes`, divided by
  `supervisor.shards`;
- `shard.limits`: `chunk_bytes_max` is at most `staging_connection_bytes_max`, which is at most `staging_bytes`;
- `frontend.piece_bytes` is at most `frontend.message_bytes_max` and `frontend.staging_bytes`; so is
  `frontend.put_bytes_max` at most `frontend.staging_bytes`;
- `frontend.drain_s` is under `supervisor.stop_s`, and `supervisor.backoff_s_min` at most `backoff_s_max`.
"""


def document() -> str:
    """The whole text of docs/configuration.md."""
    return "\n".join([OPENING, *_sections()])


def _sections() -> Iterator[str]:
    for path, schema in tables().items():
        own = [key for key in keys().values() if key.path[:-1] == path]
        if not own:
            continue
        yield f"## [{'.'.join(path)}]\n"
        yield f"{inspect.getdoc(schema) or ''}\n"
        yield "| key | meaning | default | allowed | variable |"
        yield "|---|---|---|---|---|"
        yield from (_row(key) for key in own)
        yield ""


def _row(key: Key) -> str:
    cells = (
        f"`{key.path[-1]}`",
        key.meaning.replace("``", "`"),
        _default(key),
        _allowed(key),
        f"`{key.variable}`",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(key: Key) -> str:
    if key.default in ("", []):
        return "none" if key.is_list else "empty"
    return f"`{key.shown(key.default)}`"


def _allowed(key: Key) -> str:
    if key.choices:
        return ", ".join(f"`{choice}`" for choice in key.choices)
    if not key.is_number:
        return key.expected.removeprefix("a ")
    return (key.unit or key.expected.partition(",")[0].removeprefix("a ")) + key.bounds
