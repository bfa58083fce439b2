"""Runs the checks and sums up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from mezzo.address import UNIX_PATH_BYTES_MAX
from mezzo.errors import InvalidArgument
from mezzo_server.doctor import kernel, limits, processor, software, storage
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.doctor.keys import examine_keys
from mezzo_server.doctor.metadata import examine_metadata
from mezzo_server.doctor.tls import examine_tls
from mezzo_server.machine import Host

if TYPE_CHECKING:
    from mezzo_server.config import NodeConfig

Check = Callable[[Host], Finding | Iterable[Finding]]
CHECKS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    ("Kernel", kernel.CHECKS),
    ("Limits", limits.CHECKS),
    ("Processor", processor.CHECKS),
    ("Software", software.CHECKS),
)


LISTEN = "shard.listen"


class Subject(Struct, frozen=True):
    """What to look at beside the machine."""

    devices: tuple[str, ...] = ()
    config: Path | None = None
    write: bool = False
    """allow a file without a name in the folders of devices"""


class Section(Struct, frozen=True):
    """Findings that belong together."""

    title: str
    findings: list[Finding]


class Examination(Struct, frozen=True):
    """What `mezzo doctor --json` prints."""

    sections: list[Section]
    good: int
    better: int
    missing: int
    broken: int
    """findings in that state"""


def examine(host: Host, subject: Subject) -> Examination:
    """Run all checks. A check that fails is a finding, never the end."""
    sections = [
        Section(title, [finding for check in checks for finding in _run(check, host)])
        for title, checks in CHECKS
    ]
    for device in subject.devices:
        found = _run(lambda host, path=device: storage.place(host, path, write=subject.write), host)  # type: ignore[misc]
        sections.append(Section(f"Device {device}", found))
    if subject.config is not None:
        sections += _configuration(host, subject.config, write=subject.write)
    states = [finding.state for section in sections for finding in section.findings]
    return Examination(
        sections,
        good=states.count(State.GOOD),
        better=states.count(State.BETTER),
        missing=states.count(State.MISSING),
        broken=states.count(State.BROKEN),
    )


def _run(check: Check, host: Host) -> list[Finding]:
    try:
        found = check(host)
        return [found] if isinstance(found, Finding) else list(found)
    except OSError as error:
        name = getattr(check, "__name__", "check").replace("_", " ")
        return [Finding(name, State.BETTER, f"could not be looked at: {error}")]


def _configuration(host: Host, path: Path, *, write: bool) -> list[Section]:
    from mezzo_server.config import load
    from mezzo_server.config.several import shard_settings
    from mezzo_server.doctor.memory import examine_memory
    from mezzo_server.supervisor.looking import devices_of
    from mezzo_server.supervisor.settings import ProcessSettings

    title = f"Configuration {path}"
    try:
        config = load(path, host.environ)
    except InvalidArgument as error:
        return [Section(title, [Finding("settings", State.BROKEN, str(error), f"mend {path}")])]
    findings = [Finding("settings", State.GOOD, "every key is known, every value fits")]
    shards = [shard_settings(config, number) for number in range(config.supervisor.shards)]
    findings += [_address(host, address) for shard in shards for address in shard.shard.listen]
    findings += _run(lambda host: examine_tls(config.tls), host)
    findings += _run(lambda host: examine_metadata(host, config.metadata), host)
    findings += _run(lambda host: examine_keys(config), host)
    sections = [Section(title, findings)]
    if not config.shard.devices:
        advice = "mezzo setup proposes one"
        findings.append(Finding("shard.devices", State.BROKEN, "there is none", advice))
    try:
        dealt = devices_of(config, host)
    except InvalidArgument as error:
        findings.append(Finding("shard.devices", State.BROKEN, str(error), f"mend {path}"))
        return sections
    devices = () if dealt is None else dealt.devices
    findings += _run(lambda host: examine_memory(host, config, devices), host)
    if dealt is None:
        return sections + [_device(host, device, config, write=write) for device in config.shard.devices]
    settings = ProcessSettings(config, dealt)
    for name in settings.shards:
        own = settings.of(name)
        sections += [_device(host, device, own, write=write, of=name) for device in own.shard.devices]
    return sections


def _device(host: Host, device: str, config: NodeConfig, *, write: bool, of: str = "") -> Section:
    title = f"Device {device}" + f" of {of}" * bool(of)
    if device.startswith(("memory:", "null:")):
        seen = "nothing is kept beyond the end of the process"
        return Section(title, [Finding(device, State.BETTER, seen, "take a file or a block device")])

    def check(host: Host) -> Iterable[Finding]:
        capacity_bytes, may_format = config.shard.capacity_bytes, config.shard.format
        if not capacity_bytes and host.kind(device) is None:
            seen = "is not there, and without shard.capacity_bytes it is not made"
            yield Finding(device, State.BROKEN, seen, "set shard.capacity_bytes")
        yield from storage.place(
            host, device, write=write, capacity_bytes=capacity_bytes, may_format=may_format
        )

    return Section(title, _run(check, host))


def _address(host: Host, address: str) -> Finding:
    if not address.startswith("unix://"):
        seen = f"{address}: same-host clients do not get the zero-copy path over it"
        return Finding(LISTEN, State.GOOD, seen)
    path = address.removeprefix("unix://")
    folder = str(Path(path).parent)
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        seen = f"{address}: the path is over {UNIX_PATH_BYTES_MAX} bytes"
        return Finding(LISTEN, State.BROKEN, seen, "take a shorter one")
    if host.kind(folder) != "folder":
        return Finding(LISTEN, State.BROKEN, f"{address}: {folder} is not there", f"mkdir -p {folder}")
    if not host.may_write(folder):
        seen = f"{address}: user {host.user()} may not write to {folder}"
        return Finding(LISTEN, State.BROKEN, seen, f"chown {host.user()} {folder}")
    return Finding(LISTEN, State.GOOD, f"{address}: its folder is there")
