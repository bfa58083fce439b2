"""Another language's stock stubs drive the front-end: the example for Node, docs/examples/node/store.js."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mezzo_server.testing import running_frontend, running_shard

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "node"
INSTALL_S = 90


@pytest.fixture
def modules(pytestconfig) -> Path:
    """The packages of the example, kept for the next run. Skips where there can be none."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    package = (EXAMPLE / "package.json").read_bytes()
    folder = pytestconfig.cache.mkdir("node-" + hashlib.sha256(package).hexdigest()[:16])
    installed = folder / "node_modules" / "complete"
    if not installed.exists():
        (folder / "package.json").write_bytes(package)
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
        try:
            done = subprocess.run(
                command, cwd=folder, timeout=INSTALL_S, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install the packages within {INSTALL_S} s")
        if done.returncode:
            pytest.skip(f"npm could not install the packages: {done.stderr[-300:]}")
        installed.touch()
    return folder / "node_modules"


def test_a_node_program_puts_and_gets_with_stock_stubs(modules):
    with running_shard() as shard, running_frontend(shard.unix, advertise=shard.addresses) as frontend:
        done = subprocess.run(
            ["node", str(EXAMPLE / "store.js"), frontend.target, str(ROOT / "proto")],
            env={**os.environ, "NODE_PATH": str(modules)},
            timeout=60,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: ")
