"""mezzo doctor on machines that are made up: old, contained, locked down, broken."""

from __future__ import annotations

import errno
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mezzo.cli.app import make_app, run
from mezzo_server.doctor import Finding, State, Subject, examine
from mezzo_server.doctor.command import show
from mezzo_server.machine.host import Host, Room
from mezzo_server.machine.uring import UringProbe
from tests.unit.mezzo_server.played_host import GIB, Blob, PlayedHost


def found(host: Host, name: str, **subject: object) -> Finding:
    sections = examine(host, Subject(**subject)).sections
    [one] = [finding for section in sections for finding in section.findings if finding.name == name]
    return one


@pytest.fixture
def host() -> PlayedHost:
    return PlayedHost()


def test_a_good_machine_is_good(host: PlayedHost) -> None:
    examination = examine(host, Subject())
    bad = [f for s in examination.sections for f in s.findings if f.state is not State.GOOD]
    assert bad == []
    assert examination.good > 15


def test_every_trouble_comes_with_advice(host: PlayedHost) -> None:
    host.release = "5.4.0"
    host.ring = UringProbe(error=errno.EPERM)
    host.absent = {"uvloop", "grpc", "structlog", "mezzo_server._native.ring"}
    host.variant = None
    host.sealing = "Invalid argument"
    host.limits = {8: (65536, 65536), 7: (1024, 1024)}
    host.rooms["/dev/shm"] = Room(64 << 20, 64 << 20)
    host.add_memory(0.5)
    host.cores_usable = 1
    host.files["/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"] = "powersave"
    host.files["/sys/kernel/mm/transparent_hugepage/enabled"] = "always madvise [never]"
    examination = examine(host, Subject())
    troubled = [f for s in examination.sections for f in s.findings if f.state is not State.GOOD]
    assert len(troubled) >= 13
    assert [f.name for f in troubled if not f.advice] == []
    assert examination.broken == 1  # structlog: without it no shard starts


@pytest.mark.parametrize(
    ("files", "code", "seen", "advice"),
    [
        ({}, errno.ENOSYS, "has no io_uring", "boot Linux"),
        ({}, errno.ENOMEM, "locked", "ulimit -l unlimited"),
        ({"/proc/sys/kernel/io_uring_disabled": "2"}, errno.EPERM, "is 2, for all", "sysctl -w kernel.io_uring_disabled=0"),
        ({"/proc/sys/kernel/io_uring_disabled": "1"}, errno.EPERM, "io_uring_group", "sysctl -w kernel.io_uring_group"),
        ({"/proc/self/status": "Seccomp:\t2\n"}, errno.EPERM, "seccomp", "docker run --security-opt"),
        ({}, errno.EPERM, "security module", "dmesg"),
        ({}, errno.EMFILE, "Too many open files", "dmesg"),
    ],
)  # fmt: skip
def test_why_there_is_no_io_uring(
    host: PlayedHost, files: dict[str, str], code: int, seen: str, advice: str
) -> None:
    host.files.update(files)
    host.ring = UringProbe(error=code)
    finding = found(host, "io_uring")
    assert finding.state is State.MISSING
    assert seen in finding.seen
    assert errno.errorcode[code] in finding.seen
    assert advice in finding.advice


def test_a_seccomp_profile_in_kubernetes_is_changed_elsewhere(host: PlayedHost) -> None:
    host.environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    host.files["/proc/self/status"] = "Seccomp:\t2\n"
    host.ring = UringProbe(error=errno.EPERM)
    assert "securityContext" in found(host, "io_uring").advice
    assert found(host, "container").seen == "yes, Kubernetes"


def test_a_ring_that_lacks_something(host: PlayedHost) -> None:
    host.ring = replace(host.ring, flags=frozenset())
    assert found(host, "io_uring features").state is State.BETTER
    host.ring = replace(host.ring, buffers_error=errno.ENOMEM)
    assert "RLIMIT_MEMLOCK" in found(host, "registered buffers").advice
    host.ring = replace(host.ring, operations=frozenset({"READ"}))
    assert found(host, "io_uring").state is State.MISSING
    assert "WRITE_FIXED" in found(host, "io_uring").seen


@pytest.mark.parametrize(
    ("release", "state"), [("5.14.21", "could be better"), ("5.15.0", "good"), ("6.18.44-x", "good"), ("?", "could be better")]
)  # fmt: skip
def test_kernels(host: PlayedHost, release: str, state: str) -> None:
    host.release = release
    assert found(host, "kernel").state == state


def test_locked_memory(host: PlayedHost) -> None:
    host.limits[8] = (8 << 20, 8 << 20)
    assert found(host, "RLIMIT_MEMLOCK").state is State.BETTER
    assert "LimitMEMLOCK" in found(host, "RLIMIT_MEMLOCK").advice
    host.files["/proc/self/status"] = "CapEff:\t0000000000004000\n"
    assert found(host, "RLIMIT_MEMLOCK").state is State.GOOD


def test_the_memory_of_a_container_is_its_own(host: PlayedHost) -> None:
    host.files["/proc/self/cgroup"] = "0::/pods/one\n"
    host.files["/sys/fs/cgroup/pods/memory.max"] = str(GIB // 2)
    host.files["/sys/fs/cgroup/pods/one/memory.max"] = "max"
    finding = found(host, "memory")
    assert finding.state is State.BETTER
    assert "given 512 MiB" in finding.seen
    host.files["/proc/self/cgroup"] = "4:cpu,memory:/docker/1\n0::/\n"
    host.files["/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes"] = str(2**63 - 4096)
    assert found(host, "memory").state is State.GOOD


def test_the_cores_of_a_container_are_its_own(host: PlayedHost) -> None:
    host.files["/sys/fs/cgroup/cpu.max"] = "150000 100000"
    assert found(host, "cores").state is State.BETTER
    assert "1.5 of them" in found(host, "cores").seen
    host.files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert found(host, "cores").state is State.GOOD
    host.files["/proc/self/cgroup"] = "0::/system.slice/mezzo.service\n"
    host.files["/sys/fs/cgroup/system.slice/cpu.max"] = "50000 100000"
    assert "0.5 of them" in found(host, "cores").seen


@pytest.mark.parametrize(
    ("path", "text", "seen"),
    [("/.dockerenv", "", "Docker"), ("/run/.containerenv", "", "Podman"), ("/proc/1/cgroup", "0::/kubepods/x", "kubepods")],
)  # fmt: skip
def test_containers(host: PlayedHost, path: str, text: str, seen: str) -> None:
    host.files[path] = text
    assert found(host, "container").seen == f"yes, {seen}"


def test_small_things(host: PlayedHost) -> None:
    host.files["/sys/devices/system/node/node0/x"] = host.files["/sys/devices/system/node/node1/x"] = ""
    assert "numactl" in found(host, "NUMA").advice
    clocks = "/sys/devices/system/clocksource/clocksource0"
    host.files[f"{clocks}/current_clocksource"] = "hpet"
    host.files[f"{clocks}/available_clocksource"] = "hpet tsc"
    assert found(host, "clock").advice.startswith("echo tsc >")
    del host.rooms["/dev/shm"]
    assert found(host, "/dev/shm").state is State.MISSING
    host.files["/sys/kernel/mm/transparent_hugepage/shmem_enabled"] = "always advise [never]"
    assert "within_size" in found(host, "huge pages").advice


# Devices


def device(host: PlayedHost, path: str, what: str, **subject: object) -> Finding:
    return found(host, f"{path} {what}".strip(), devices=(path,), **subject)


def test_a_folder_is_written_to_only_with_consent(host: PlayedHost) -> None:
    tried = []
    host.try_direct = lambda path, *, write: tried.append(write)  # type: ignore[method-assign,assignment]
    assert "--write" in device(host, "/home/me", "direct I/O").advice
    assert tried == []
    assert "works" in device(host, "/home/me", "direct I/O", write=True).seen
    assert tried == [True]


def test_where_a_device_cannot_be(host: PlayedHost) -> None:
    assert "mkdir -p /none" in device(host, "/none/x", "").advice
    assert device(host, "/var/lib", "access").state is State.BROKEN
    host.files["/dev/null"] = ""
    assert device(host, "/dev/null", "").state is State.BROKEN
    host.rooms["/"] = Room(100 * GIB, GIB // 2)
    assert device(host, "/home/me", "room").state is State.BETTER
    host.files["/proc/self/mountinfo"] = "22 1 0:1 / / ro - ext4 /dev/a ro\n"
    assert "remount,rw" in device(host, "/home/me", "filesystem").advice


@pytest.mark.parametrize("kind", ["tmpfs", "nfs4", "overlay", "fuse.sshfs"])
def test_filesystems_that_are_no_good(host: PlayedHost, kind: str) -> None:
    host.files["/proc/self/mountinfo"] += f"30 22 0:40 / /home/me rw - {kind} some\\040where rw\n"
    assert device(host, "/home/me", "filesystem").state is State.BETTER
    assert device(host, "/home", "filesystem").state is State.GOOD


def test_direct_io(host: PlayedHost) -> None:
    host.blobs["/home/me/x"] = Blob(GIB)
    assert "aligned to 512" in device(host, "/home/me/x", "direct I/O").seen
    host.told = None
    assert device(host, "/home/me/x", "direct I/O").state is State.GOOD
    host.told = (512, 16384)
    assert device(host, "/home/me/x", "direct I/O").state is State.BROKEN
    host.direct = "Invalid argument"
    assert device(host, "/home/me/x", "direct I/O").state is State.BETTER
    host.direct = OSError(errno.EIO, "Input/output error")
    assert device(host, "/home/me/x", "direct I/O").state is State.BROKEN


def test_what_a_device_holds(host: PlayedHost) -> None:
    disk = Blob(64 * GIB)
    host.add_disk("nvme1n1", disk)
    assert device(host, "/dev/nvme1n1", "content").seen == "empty"
    assert "nobody else" in device(host, "/dev/nvme1n1", "use").seen
    disk.data[0] = b"MEZZO-SB"
    assert device(host, "/dev/nvme1n1", "content").seen == "a Mezzo store"
    disk.data = {32 * GIB: b"x"}
    assert device(host, "/dev/nvme1n1", "content").state is State.BROKEN
    disk.readable = False
    assert device(host, "/dev/nvme1n1", "content").state is State.BROKEN
    host.files["/sys/block/nvme1n1/nvme1n1p1/partition"] = "1"
    assert device(host, "/dev/nvme1n1", "use").state is State.BROKEN


# Configurations


def configuration(host: PlayedHost, tmp_path: Path, text: str) -> list[Finding]:
    path = tmp_path / "mezzo.toml"
    path.write_text(text)
    sections = examine(host, Subject(config=path)).sections
    return [f for s in sections[4:] for f in s.findings if f.state is State.BROKEN]


def test_configurations(host: PlayedHost, tmp_path: Path) -> None:
    good = '[shard]\nlisten = ["unix:///tmp/m.sock"]\ndevices = ["/home/me/c"]\ncapacity_bytes = "4GiB"\n'
    assert configuration(host, tmp_path, good) == []
    assert "depth" in configuration(host, tmp_path, "[shard]\ndept = 1\n")[0].seen
    assert [f.name for f in configuration(host, tmp_path, "[shard]\n")] == ["shard.devices"]
    [large] = configuration(host, tmp_path, good.replace("4GiB", "900GiB"))
    assert "900 GiB" in large.seen
    [sizeless] = configuration(host, tmp_path, good.replace('capacity_bytes = "4GiB"', ""))
    assert "capacity_bytes" in sizeless.advice
    [folder] = configuration(host, tmp_path, good.replace("/tmp/m.sock", "/none/m.sock"))
    assert folder.advice == "mkdir -p /none"
    [barred] = configuration(host, tmp_path, good.replace("/tmp/m.sock", "/var/lib/m.sock"))
    assert "may not write" in barred.seen


def test_each_shard_of_a_node_is_looked_at(host: PlayedHost, tmp_path: Path) -> None:
    several = '[supervisor]\nshards = 2\n[shard]\nlisten = ["unix:///tmp/m.sock"]\ncapacity_bytes = "4GiB"\n'
    fine = several + 'devices = ["/home/me/c"]\n'
    assert configuration(host, tmp_path, fine) == []
    barred = configuration(host, tmp_path, fine.replace("/tmp/m.sock", "/none/m.sock"))
    assert ["m.sock.0" in barred[0].seen, "m.sock.1" in barred[1].seen, len(barred)] == [True, True, 2]
    large = configuration(host, tmp_path, fine.replace("4GiB", "1400GiB"))
    assert [finding.name.split()[0] for finding in large] == ["/home/me/c.0", "/home/me/c.1"]
    assert "700 GiB" in large[0].seen
    host.blobs["/home/me/c"] = Blob(GIB)
    [divided] = configuration(host, tmp_path, fine)
    assert "there already" in divided.seen


def about_memory(host: PlayedHost, tmp_path: Path, text: str) -> dict[str, Finding]:
    path = tmp_path / "mezzo.toml"
    path.write_text(text)
    found = [f for s in examine(host, Subject(config=path)).sections for f in s.findings]
    return {f.name: f for f in found if "memory of" in f.name}


FOUR = """[supervisor]
shards = 4
[shard]
listen = ["unix:///tmp/m.sock"]
devices = ["/dev/a", "/dev/b", "/dev/c", "/dev/d"]
[shard.hot]
bytes = "8GiB"
"""


def four_disks(host: PlayedHost) -> None:
    for name in "abcd":
        host.add_disk(name, Blob(GIB))


def test_the_memory_of_all_shards_must_be_there(host: PlayedHost, tmp_path: Path) -> None:
    four_disks(host)
    found = about_memory(host, tmp_path, FOUR)
    assert {name: one.state for name, one in found.items()} == {"memory of the node": State.GOOD}
    assert "each of 4 shards" in found["memory of the node"].seen
    # Each shard by itself would fit.
    host.add_memory(8)
    [short] = about_memory(host, tmp_path, FOUR).values()
    assert (short.state, "shard.hot.bytes" in short.advice) == (State.BROKEN, True)
    host.add_memory(10.4)
    [tight] = about_memory(host, tmp_path, FOUR).values()
    assert (tight.state, "little is left" in tight.seen) == (State.BETTER, True)
    # What was set aside as huge pages is nobody's of ours.
    host.add_memory(16)
    host.files["/proc/meminfo"] += "HugePages_Total: 4096\nHugepagesize: 2048 kB\n"
    [reserved] = about_memory(host, tmp_path, FOUR).values()
    assert (reserved.state, "are set aside as huge pages" in reserved.seen) == (State.BROKEN, True)


def test_what_shards_of_one_user_lock_is_counted_together(host: PlayedHost, tmp_path: Path) -> None:
    four_disks(host)
    host.limits[8] = (4 * GIB, 4 * GIB)
    found = about_memory(host, tmp_path, FOUR)
    assert "locked memory of the node" in found
    assert found["locked memory of the node"].state is State.BETTER
    host.limits[8] = (64 * GIB, 64 * GIB)
    assert "locked memory of the node" not in about_memory(host, tmp_path, FOUR)


def test_shards_want_their_memory_near_to_their_cores(host: PlayedHost, tmp_path: Path) -> None:
    four_disks(host)
    for number in (0, 1):
        folder = f"/sys/devices/system/node/node{number}"
        host.files[f"{folder}/cpulist"] = f"{8 * number}-{8 * number + 7}"
        host.files[f"{folder}/meminfo"] = f"Node {number} MemTotal:       {(32 - 30 * number) << 20} kB"
    found = about_memory(host, tmp_path, FOUR)
    near, far = found["memory of NUMA node 0"], found["memory of NUMA node 1"]
    assert (near.state, far.state) == (State.GOOD, State.BETTER)
    assert "2 shards run there" in far.seen
    assert "far from them" in far.seen


def test_a_check_that_fails_is_a_finding(host: PlayedHost) -> None:
    def fail() -> str:
        raise OSError(errno.EIO, "Input/output error")

    host.kernel = fail  # type: ignore[method-assign]
    finding = found(host, "release")
    assert (finding.state, "Input/output error" in finding.seen) == (State.BETTER, True)
    assert found(host, "memory").state is State.GOOD


# The command


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_lost_in_a_narrow_terminal(host: PlayedHost, width: int) -> None:
    host.absent = {"structlog"}
    out = io.StringIO()
    show(examine(host, Subject(devices=("/none/[x]",))), Console(file=out, width=width))
    text = out.getvalue()
    assert max(map(len, text.splitlines()[:-1])) <= width
    assert "mkdir -p /none" in text
    assert text.splitlines()[-1].startswith("a node cannot run like this")


def test_this_very_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    status = run(make_app, ["doctor", "--device", str(tmp_path), "--write", "--json"])
    assert status in (0, 1)
    assert capsys.readouterr().out.startswith('{"sections":[')
    assert sorted(tmp_path.iterdir()) == before
