"""The base package needs no grpcio, and says what is missing where a front-end is named."""

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["grpc"] = sys.modules["google.protobuf"] = None  # as if they were not installed
import mezzo
import mezzo.testing
client = mezzo.Client("unix:///nowhere")
try:
    client.ping()
except mezzo.Unavailable:
    pass
try:
    mezzo.Client("grpc://127.0.0.1:7710").ping()
except mezzo.Unsupported as error:
    print(error)
"""


def test_a_front_end_without_grpcio_names_what_to_install():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'mezzo[grpc]'" in done.stdout


def test_the_sdk_does_not_import_grpc_by_itself():
    program = (
        "import sys, mezzo; print([name for name in sys.modules if name.startswith(('grpc', 'google'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
