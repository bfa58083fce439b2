"""Whether this is a container, and whose."""

from __future__ import annotations

import re

from mezzo_server.machine.host import Host


def container(host: Host) -> str | None:
    """``Kubernetes``, ``Docker``, ``Podman``, another runtime's name; None: no container was seen."""
    if host.environ.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes"
    if host.kind("/.dockerenv") is not None:
        return "Docker"
    if host.kind("/run/.containerenv") is not None:
        return "Podman"
    told = host.environ.get("container")
    if told:
        return told
    groups = host.read("/proc/1/cgroup") or ""
    match = re.search(r"(kubepods|docker|containerd|libpod|lxc)", groups)
    return match[1] if match else None
