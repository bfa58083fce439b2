"""The one schema of a node's settings: every key, its unit, its default and its meaning.

The docstring below a field is its documentation: `--help`, docs/configuration.md and the file that
`mezzo setup` writes are made from it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from mezzo.protocol.messages import KEYS_MAX, U32_MAX

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SHARDS_MAX = 64
"""of one node"""

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the shard grants to one connection, and to all of them together."""

    connections_max: Count = 1024
    """connections at a time; one more is refused. Where there are tenants, one has at most half of them"""
    requests_max: Annotated[int, Meta(ge=1, le=65536)] = 256
    """requests in flight on one connection; one more is answered ``Busy``"""
    keys_max: Annotated[int, Meta(ge=1, le=KEYS_MAX)] = KEYS_MAX
    """keys in one request"""
    chunk_bytes_max: Annotated[int, Meta(ge=1, le=U32_MAX)] = 64 * MIB
    """bytes of one chunk"""
    body_bytes_max: Annotated[int, Meta(ge=4 * KIB, le=64 * MIB)] = 512 * KIB
    """bytes of a frame's body (payload is counted apart)"""
    in_flight_bytes_max: Bytes = 256 * MIB
    """bytes that one connection has on their way at a time over shm; what is over it waits its turn"""
    staging_bytes: Bytes = 256 * MIB
    """memory that payloads of all connections pass through: puts over tcp, regions that cannot be mapped"""
    staging_connection_bytes_max: Bytes = 128 * MIB
    """the most that one connection holds of it; what is over it waits its turn"""
    staging_wait_s: Seconds = 5.0
    """how long a request waits for staging memory, of the connections or of the store: after that a put is answered
    ``Busy``, and a chunk of a get is a miss"""
    output_bytes_max: Bytes = 1 * MIB
    """answers waiting for one client to read them; over it no more of its requests are read"""
    regions_max: Annotated[int, Meta(ge=0, le=4096)] = 64
    """regions of one connection"""
    region_bytes_max: Bytes = 64 * GIB
    """bytes in all regions of one connection"""
    region_bytes_total_max: Bytes = 512 * GIB
    """bytes in the regions of all connections; where there are tenants, one has at most half of them"""
    leases_max: Count = 65536
    """leases at a time, over all connections"""
    leased_chunks_max: Count = 4_194_304
    """chunks that leases hold at a time, over all connections, one in two leases counted twice; about 200 bytes of memory each"""
    leased_fraction: Fraction = 0.25
    """share of the devices' bytes that leases may hold at a time"""
    leased_fraction_tenant: Fraction = 0.5
    """share of those bytes, of ``leases_max`` and of ``leased_chunks_max`` that one tenant may have, where there are several"""
    lease_ms_max: Count = 600_000
    """the longest lease, milliseconds; a longer wish gets this"""
    events_max: Count = 65_536
    """events of a namespace that are kept for its readers; one who falls further behind is told of a gap"""
    events_bytes_max: Bytes = 64 * MIB
    """memory of kept events, over all namespaces that are read; each gets an equal share, at most a quarter"""
    events_namespaces_max: Count = 256
    """namespaces whose events are kept at a time; one tenant has at most half of them"""
    events_readers_max: Count = 256
    """requests that wait for an event at a time; one tenant has at most half of them"""
    events_idle_s: Seconds = 60.0
    """a namespace whose events nobody has asked for, for so long, keeps none any more"""
    handshake_timeout_s: Seconds = 5.0
    """a connection that has not said HELLO by then is closed"""
    stall_timeout_s: Seconds = 20.0
    """a client that neither sends payload that it was granted nor reads what it asked for (1 MiB of it in each such
    time, or all), for so long, is disconnected"""


class HotConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The hot tier: chunks that are in memory as well as on a device."""

    bytes: Natural = 0
    """memory that the hot tier may take; 0: there is none"""
    arena_bytes: Annotated[int, Meta(ge=1 * MIB, le=4 * GIB)] = 64 * MIB
    """memory is taken in arenas of this size; a chunk that does not fit into one is never hot"""
    fill: Literal["puts", "reads"] = "puts"
    """what makes a chunk hot: being put or read, or being read only"""
    held_fraction: Fraction = 0.5
    """share of the hot tier that clients may hold in place at a time"""


class QuotaConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What each tenant may use of the pod, or of a node that is of none, where its own quota says nothing; 0: no limit.

    In a pod it is the same on all nodes, or each shard enforces its part of what its own node says.

    Over a soft limit a tenant's chunks go first and its requests come last; over a hard one it is refused
    with `OverQuota`, or its own oldest chunks make room. See docs/quotas.md.
    """

    capacity_bytes_soft: Natural = 0
    """bytes of chunks on devices that are a tenant's share"""
    capacity_bytes_hard: Natural = 0
    """the most bytes of chunks on devices; over it a tenant's oldest chunks make room for its new ones"""
    hot_bytes_soft: Natural = 0
    """bytes of the hot tier that are a tenant's share"""
    hot_bytes_hard: Natural = 0
    """the most bytes of the hot tier"""
    leased_bytes_soft: Natural = 0
    """bytes under leases"""
    leased_bytes_hard: Natural = 0
    """the most bytes under leases"""
    bytes_per_s_soft: Natural = 0
    """payload put and got in a second"""
    bytes_per_s_hard: Natural = 0
    """the most payload put and got in a second"""
    requests_per_s_soft: Natural = 0
    """requests in a second"""
    requests_per_s_hard: Natural = 0
    """the most requests in a second"""
    burst_s: Seconds = 1.0
    """seconds of a rate that may be used at once by who used nothing before"""


class AdmissionConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which puts are taken. What is not taken is answered so (`declined`), and is not stored."""

    mode: Literal["none", "second_touch", "size_position"] = "none"
    """what is taken: everything, what was put before not long ago, or what is within the two limits below"""
    chunk_bytes_max: Natural = 0
    """with ``size_position``: longer chunks are declined; 0: none for its size"""
    position_max: Natural = 0
    """with ``size_position``: chunks behind more than so many others of their prefix are declined; 0: none"""
    writes_per_day: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """device writes a day, as a multiple of the capacity (DWPD); over it the least useful puts are declined. 0: no limit"""
    endurance_bytes: Natural = 0
    """what the devices together may still be written in their life, by their rating; only for the metric. 0: unknown"""


class ShardConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one shard."""

    listen: list[str] = msgspec.field(default_factory=lambda: ["unix:///tmp/mezzo.sock"])
    """addresses: ``unix:///path``, ``tcp://host:port``, or ``tcps://host:port`` for TLS (port 0: any free one)"""
    insecure: bool = False
    """allow addresses that other hosts can reach although they are not encrypted, or let in who shows no credential"""
    devices: list[str] = []
    """each a file, a block device, ``memory:SIZE`` or ``null:SIZE``"""
    capacity_bytes: Natural = 0
    """size of each device that is a file; 0: as large as the file is already"""
    format: bool = False
    """initialise devices that hold anything but a store of ours; what was there is lost"""
    io: Literal["auto", "uring", "threads"] = "auto"
    """how files and block devices are reached; ``auto``: io_uring where it works"""
    depth: Annotated[int, Meta(ge=1, le=4096)] = 128
    """transfers in flight on one device"""
    durability: Literal["process", "power"] = "process"
    """what an acknowledged put survives: the end of the process, or of the power too"""
    policy: Literal["density", "fifo", "lru", "s3fifo", "sieve"] = "density"
    """which chunks go when space is needed"""
    write_amplification: Annotated[float, Meta(ge=1, le=16)] = 1.1
    """bytes that may be written for each byte put, to keep chunks whose segment is reclaimed; leases and quotas go beyond it"""
    segment_bytes: Natural = 0
    """unit of space on a device, chosen when it is formatted; 0: by the device's size"""
    scrub_bytes_per_s: Natural = 16 * MIB
    """rate at which stored bytes are verified in the background; 0: not at all"""
    drain_bytes_per_s: Natural = 256 * MIB
    """rate at which the chunks of a device that is drained move to the others; 0: as fast as it goes"""
    device_queue_ms: Annotated[int, Meta(ge=0, le=10_000)] = 10
    """how much work a device, or the worker threads, are given at a time, by the rate that they have shown: what
    one tenant's flood delays another's request by, at most. More than the device's latency. 0: all that there is"""
    background_share: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """share of a device's time for reclaim, scrub and drains, while tenants have work for it too"""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """threads that checksum and copy off the event loop"""
    store_staging_bytes: Bytes = 64 * MIB
    """memory of the block store for headers of records, unaligned ends, encryption and verification; at least twice
    the longest chunk (`limits.chunk_bytes_max`), rounded up to a power of two, and 8 MiB"""
    loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    """event loop; ``auto``: uvloop where it is installed"""
    limits: Limits = Limits()
    hot: HotConfig = HotConfig()
    quota: QuotaConfig = QuotaConfig()
    admission: AdmissionConfig = AdmissionConfig()


class FrontendConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gRPC front-end. Settings of its own process."""

    enabled: bool = True
    """whether `mezzo serve` runs a front-end"""
    listen: str = "127.0.0.1:7710"
    """host:port for clients; port 0: any free one"""
    admin_listen: str = ""
    """host:port for health, administration, reflection and channelz; empty: the same host, the port after `listen`"""
    insecure: bool = False
    """allow addresses that other hosts can reach although they are not encrypted, or let in who shows no credential"""
    shard: str = ""
    """the shard that it serves, unix://, tcp:// or tcps://; empty: the one that `mezzo serve` runs beside it"""
    shards: list[str] = []
    """all shards of the node, where there are several: of each its addresses, with spaces between them, the best first;
    then, if they are known, ``id=HEX`` and ``bytes=SIZE``, and ``at=ADDRESS`` if the front-end is to reach it elsewhere
    than clients do. Empty: `shard` alone"""
    advertise: list[str] = []
    """addresses of the shard that clients are told, unix://, tcp:// and tcps://; empty: all that are known"""
    calls_max: Count = 256
    """calls at a time; one more is refused with RESOURCE_EXHAUSTED. One tenant has at most three quarters of them"""
    connections_max: Count = 4096
    """gRPC connections at a time, at `listen` and at `admin_listen` each; one more is closed at once"""
    message_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=1 * GIB)] = 4 * MIB
    """longest gRPC message taken; payload is streamed in pieces that fit"""
    piece_bytes: Annotated[int, Meta(ge=4 * KIB, le=64 * MIB)] = 1 * MIB
    """bytes of a chunk in one message of a stream, at most"""
    staging_bytes: Bytes = 256 * MIB
    """memory for chunks on their way through the front-end"""
    put_bytes_max: Bytes = 64 * MIB
    """payload of one put, over all its chunks"""
    stall_s: Seconds = 20.0
    """a caller that neither sends what it announced (1 MiB of it in each such time) nor reads what it asked for, for
    so long, is given up"""
    leases_max: Count = 16384
    """leases at a time, over all callers; one tenant has at most three quarters of them"""
    events_max: Count = 64
    """calls that read events at a time, over all callers; one tenant has at most three quarters of them"""
    health_s: Seconds = 1.0
    """time between two looks at whether the shard serves"""
    namespaces_max: Count = 256
    """namespaces with a connection to the shard of their own at a time"""
    session_s: Seconds = 300.0
    """how long a session's ticket is good for"""
    drain_s: Seconds = 5.0
    """how long calls under way may take when it stops"""


class TlsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificates of a node: for all that it serves (gRPC, and shards at ``tcps://``), and for what it connects to."""

    certificate: str = ""
    """PEM file with the certificate and its intermediates; with it gRPC is served over TLS only; empty: no TLS"""
    key: str = ""
    """PEM file with its private key, without a passphrase"""
    client_certificates: Literal["off", "required"] = "off"
    """whether clients must show a certificate themselves"""
    client_ca: str = ""
    """PEM file with the authorities that clients' certificates are signed by"""
    ca: str = ""
    """PEM file with the authorities that a front-end, or a shard that takes over chunks from another, trusts when the
    shard that it goes to is at ``tcps://``; empty: the system's"""
    server_name: str = ""
    """name that the certificate of that shard must have; empty: the host of its address"""
    reload_s: Seconds = 10.0
    """time between two looks at whether the files have changed; what is new counts for new connections"""
    handshake_timeout_s: Seconds = 5.0
    """a connection to a shard whose handshake has not ended by then is closed"""
    handshakes_max: Count = 64
    """handshakes with a shard at a time; further connections wait to be accepted"""
    threads: Annotated[int, Meta(ge=1, le=64)] = 4
    """threads of a shard that encrypt and decrypt, off its event loop"""


class JwtConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """JSON Web Tokens of callers. What each setting means for whom: docs/access.md."""

    keys: str = ""
    """file or https:// address of the public keys (JWKS) that tokens are signed with; empty: no such tokens"""
    algorithms: list[str] = msgspec.field(default_factory=lambda: ["EdDSA", "ES256", "RS256"])
    """signatures that are taken; none with a shared secret can be"""
    issuer: str = ""
    """``iss`` that a token must have"""
    audience: str = "mezzo"
    """``aud`` that a token must have, alone or among others"""
    tenant_claim: str = "tenant"
    """claim with the tenant's name"""
    scopes_claim: str = "scope"
    """claim with the scopes: a text with spaces between them, or a list"""
    scopes_prefix: str = ""
    """what stands before ``read``, ``write`` and ``admin`` in that claim"""
    refresh_s: Seconds = 300.0
    """time between two looks at the keys; a token with an unknown key makes for one at once"""


class MtlsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Client certificates of callers, which ``tls.client_ca`` verifies."""

    tenant: str = ""
    """subject alternative name with ``{tenant}`` in it, a URI or a DNS name; empty: certificates name no tenant"""
    scopes: list[str] = msgspec.field(default_factory=lambda: ["read", "write"])
    """what a certificate is good for"""


class AccessConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may call. Without a metadata engine there are no tenants and no credentials, and everybody may."""

    anonymous: str = "default"
    """tenant of callers that show no credential; empty: they are refused"""
    anonymous_scopes: list[str] = msgspec.field(default_factory=lambda: ["read", "write"])
    """what such callers may do: ``read``, ``write``"""
    pod: str = "mezzo"
    """name that tickets are good for: the same for all front-ends and shards of a pod"""
    key_s: Seconds = 86400.0
    """how long a key lives that a front-end signs tickets with; its successor takes over at half of it"""
    unix_mode: str = "0600"
    """permissions of a shard's Unix sockets, octal: who may write to one may connect"""
    unix_users: list[str] = []
    """user ids that may connect to them; empty: whoever the permissions allow"""
    jwt: JwtConfig = JwtConfig()
    mtls: MtlsConfig = MtlsConfig()


class AdminConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Administration: the audit log, for what operators do through the front-end and on the command line."""

    audit_log: str = ""
    """file for lines of JSON: who changed what, when, from where; ``-``: standard error; empty: ``audit.jsonl``
    beside the file of the metadata"""
    audit_bytes_max: Annotated[int, Meta(ge=64 * KIB)] = 64 * MIB
    """bytes after which the file is put aside as ``.1``, and a new one is begun"""
    audit_files: Annotated[int, Meta(ge=0, le=1000)] = 4
    """files put aside that are kept"""


class MetadataConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where tenants, namespaces, quotas and credentials are kept (docs/metadata.md)."""

    engine: str = ""
    """``sqlite:///path/of/a/file``, ``etcd[s]://``, or ``mezzo[s]://`` for a metadata service; the same for all processes of
    a node. Empty: nowhere, and there is one tenant"""
    start_s: Seconds = 120.0
    """how long a shard waits for it when it starts; it serves nothing before it has read it"""


class MetadataServiceConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The metadata service: an engine behind gRPC, for processes of the pod that do not reach it themselves, and a planner
    that goes on without front-ends (docs/metadata.md). With TLS if `[tls]` has a certificate.
    """

    enabled: bool = False
    """whether `mezzo serve` runs one"""
    listen: str = "127.0.0.1:7713"
    """host:port; port 0: any free one"""
    engine: str = ""
    """the engine under it, ``sqlite://`` or ``etcd[s]://``; empty: `metadata.engine`"""
    secret_file: str = ""
    """file of secrets, one a line, of which callers show one: front-ends, shards and commands. Empty: everybody may call"""
    shard_secret_file: str = ""
    """file of secrets with which a process may do what a shard has to, and nothing else"""
    client_ca: str = ""
    """PEM file with the authorities of certificates that callers have to show, besides; empty: none are asked for"""
    insecure: bool = False
    """allow an address that other hosts can reach although it is not encrypted, or lets in who shows no secret"""
    calls_max: Count = 4096
    """calls at a time, watches among them; one more is refused"""
    connections_max: Count = 4096
    """connections at a time; one more is closed at once"""
    stall_s: Seconds = 20.0
    """a caller that does not read what it asked for, for so long, is given up"""
    health_s: Seconds = 1.0
    """time between two looks at whether the engine answers"""
    drain_s: Seconds = 2.0
    """how long calls under way may take when it stops"""


class PodConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """This node's part in a pod: all nodes whose settings name the same metadata engine (docs/pod.md)."""

    enabled: bool = False
    """whether the node is of a pod: its shards register, take their share of the slots, and serve nothing else"""
    node: str = ""
    """name of this node, whose shards fail together; empty: the host's"""
    rack: str = ""
    """name of what fails together with other nodes; empty: not known"""
    host: str = ""
    """name or address by which others reach this node, for addresses of ``shard.listen`` that name all of a host's"""
    advertise: list[str] = []
    """where others reach the node's shards, if not at ``shard.listen``: behind ports that are forwarded, say. Ports and
    paths are counted up for several shards, as those of ``shard.listen`` are"""
    lease_s: Annotated[float, Meta(ge=3, le=3600)] = 90.0
    """a shard that the metadata have not heard of for so long has left; it stops serving a fifteenth of it earlier"""
    slots_log2: Annotated[int, Meta(ge=4, le=18)] = 16
    """of the number of slots that chunks are spread over; counts when the pod is made, as do those that follow, which
    `mezzo pod pace` changes later"""
    ramp_s: Annotated[float, Meta(ge=0)] = 600.0
    """a new shard takes its share in steps over so long; 0: at once"""
    asked_s: Annotated[float, Meta(ge=0)] = 3600.0
    """for so long after a slot moved, its former owner is asked for what the new one does not have"""
    remembered_s: Annotated[float, Meta(ge=0)] = 86400.0
    """for so long a shard that left gets its slots back at once when it comes again"""
    move_bytes_per_s: Natural = 128 * MIB
    """rate at which a shard takes over chunks from the former owners of its slots when they are read, and at which it
    gives chunks to others; 0: nothing moves, and there are no second copies"""
    popular_gets_per_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """a chunk that its owner is asked for so often (50 is a good beginning) is popular: it has a second copy on another
    node for as long as that lasts; 0: none is. The same on all nodes"""
    popular_bytes: Natural = 0
    """of such copies on a shard at most; 0: a fiftieth of what its devices hold"""


class MetricsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prometheus endpoints, one for each process: host:port; port 0: any free one; empty: none."""

    shard: str = "127.0.0.1:7721"
    """metrics of the shard"""
    frontend: str = "127.0.0.1:7722"
    """metrics of the front-end"""
    supervisor: str = "127.0.0.1:7720"
    """metrics of the supervisor: what it started, and restarts"""
    metadata: str = "127.0.0.1:7723"
    """metrics of the metadata service"""
    insecure: bool = False
    """allow addresses that other hosts can reach"""


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "warning"
    """the least that is logged"""
    format: Literal["auto", "json", "console"] = "auto"
    """lines of JSON, or lines for people; `auto`: for people if standard error is a terminal"""


class SupervisorConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How `mezzo serve` keeps its processes running."""

    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)] = 1
    """shards of the node, each a process with devices, memory and addresses of its own; the same for all its processes"""
    pin: Literal["auto", "cores", "none"] = "auto"
    """which cores shards run on, if there are several. ``auto``: where memory has several NUMA nodes, those of the node
    that the shard's devices are at; ``cores``: each shard has cores of its own; ``none``: all"""
    backoff_s_min: Seconds = 0.2
    """wait before the first restart of a process that ended; doubles with each that follows"""
    backoff_s_max: Seconds = 30.0
    """the longest such wait"""
    stable_s: Seconds = 60.0
    """a process that ran for so long starts again with the shortest wait"""
    start_s: Seconds = 300.0
    """a process that is not ready after so long is ended and started again"""
    stop_s: Seconds = 30.0
    """a process that has not ended so long after SIGTERM is killed"""


class EncryptionConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Encryption at rest, for the tenants that were created with it."""

    master_key: str = ""
    """file with the key that wraps those of the tenants (`mezzo key new` makes one); empty: no tenant is encrypted"""
    former_master_keys: list[str] = []
    """files of the master keys before it, until `mezzo key rewrap` has wrapped all tenants' keys anew"""


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a node: one table for each part."""

    shard: ShardConfig = ShardConfig()
    frontend: FrontendConfig = FrontendConfig()
    tls: TlsConfig = TlsConfig()
    metadata: MetadataConfig = MetadataConfig()
    metadata_service: MetadataServiceConfig = MetadataServiceConfig()
    pod: PodConfig = PodConfig()
    access: AccessConfig = AccessConfig()
    admin: AdminConfig = AdminConfig()
    metrics: MetricsConfig = MetricsConfig()
    encryption: EncryptionConfig = EncryptionConfig()
    log: LogConfig = LogConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
