"""Control groups: what is written for ours, and for each above it up to the root."""

from __future__ import annotations

from collections.abc import Iterator

from mezzo_server.machine.host import Host


def readings(host: Host, controller: str, name: str, name_v1: str = "") -> Iterator[str]:
    """Texts of the file ``name`` (in version 1 of control groups ``name_v1``), the nearest group first."""
    for line in (host.read("/proc/self/cgroup") or "0::/").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            base, file = "/sys/fs/cgroup", name
        elif name_v1 and controller in controllers.split(","):
            base, file = f"/sys/fs/cgroup/{controller}", name_v1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts), -1, -1):
            text = host.read("/".join((base, *parts[:count], file)))
            if text is not None:
                yield text
