"""Which cores shards run on, by the nodes of memory and the devices at them."""

from __future__ import annotations

from collections.abc import Mapping

from mezzo_server.machine.cores import format_cores, node_of_device, numa_nodes, parse_cores, siblings
from mezzo_server.machine.host import Host
from mezzo_server.supervisor.cores import deal_cores

TWO = {0: frozenset(range(4)), 1: frozenset(range(4, 8))}
EACH = [frozenset({core}) for core in range(8)]


class Played(Host):
    """A machine with these files."""

    def __init__(self, files: Mapping[str, str], device: str | None = None) -> None:
        self._files, self._device = files, device

    def read(self, path: str) -> str | None:
        return self._files.get(path)

    def names(self, folder: str) -> list[str]:
        return sorted(
            {path.removeprefix(folder + "/").split("/")[0] for path in self._files if path.startswith(folder)}
        )

    def sysfs(self, path: str) -> str | None:
        return self._device


def test_shards_run_where_their_devices_are():
    assert deal_cores("auto", [1, 0], TWO, EACH) == [TWO[1], TWO[0]]
    assert deal_cores("auto", [1, None, None, 1], TWO, EACH) == [TWO[1], TWO[0], TWO[0], TWO[1]]


def test_one_node_of_memory_needs_no_pinning():
    assert deal_cores("auto", [None, None], {0: frozenset(range(8))}, EACH) == [None, None]
    assert deal_cores("auto", [None], {}, EACH) == [None]
    assert deal_cores("none", [0, 1], TWO, EACH) == [None, None]
    assert deal_cores("auto", [0, 1], TWO, EACH[:3]) == [None, None]  # the other node is not ours


def test_shards_get_cores_of_their_own():
    threads = [frozenset({core, core + 4}) for core in range(4)]
    assert deal_cores("cores", [None, None], {}, threads) == [{0, 1, 4, 5}, {2, 3, 6, 7}]
    assert deal_cores("cores", [1, 0, 0], TWO, EACH) == [TWO[1], {0, 1}, {2, 3}]
    # Too few: they share.
    assert deal_cores("cores", [None] * 3, {}, EACH[:2]) == [{0, 1}] * 3


def test_what_the_kernel_tells():
    host = Played(
        {
            "/sys/devices/system/node/node0/cpulist": "0-1,4",
            "/sys/devices/system/node/node1/cpulist": "2-3",
            "/sys/devices/system/node/node2/cpulist": "",
            "/sys/devices/system/node/possible": "0-2",
            "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,2",
            "/sys/devices/system/cpu/cpu2/topology/thread_siblings_list": "0,2",
            "/sys/devices/pci0/0000:1/numa_node": "1",
        },
        "/sys/devices/pci0/0000:1/nvme/nvme0/nvme0n1",
    )
    assert numa_nodes(host) == {0: {0, 1, 4}, 1: {2, 3}}
    assert siblings(host, [2, 1, 0]) == [{0, 2}, {1}]
    assert node_of_device(host, "/dev/nvme0n1") == 1
    assert node_of_device(Played({"/sys/devices/x/numa_node": "-1"}, "/sys/devices/x"), "/x") is None
    assert node_of_device(Played({}), "/x") is None
    assert parse_cores(format_cores({3, 1})) == {1, 3}
