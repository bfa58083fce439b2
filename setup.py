"""The compiled part only; everything else about the distribution is in pyproject.toml.

All extensions are optional: without a compiler, liburing-dev or libxxhash-dev the distribution
installs all the same, and the server falls back to threads (docs/devices.md) and to plain Python.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = "server/mezzo_server/_native"
FLAGS = ["-O3", "-fvisibility=hidden"]

extensions = cythonize(
    [
        Extension(
            "mezzo_server._native.ring",
            [f"{NATIVE}/ring.pyx"],
            depends=[f"{NATIVE}/event.h"],
            libraries=["uring"],
            extra_compile_args=FLAGS,
        ),
        Extension(
            "mezzo_server._native.pool",
            [
                f"{NATIVE}/pool.pyx",
                f"{NATIVE}/threads.c",
                f"{NATIVE}/hash.c",
                f"{NATIVE}/hash_avx2.c",
                f"{NATIVE}/hash_avx512.c",
            ],
            depends=[
                f"{NATIVE}/event.h",
                f"{NATIVE}/threads.h",
                f"{NATIVE}/hash.h",
                f"{NATIVE}/hash_body.h",
            ],
            extra_compile_args=FLAGS,
        ),
        Extension(
            "mezzo_server._native.rendezvous",
            [f"{NATIVE}/rendezvous.pyx", f"{NATIVE}/slots.c"],
            depends=[f"{NATIVE}/rendezvous.h"],
            extra_compile_args=FLAGS,
        ),
    ],
    language_level=3,
)

for extension in extensions:
    extension.optional = True  # here, since cythonize drops it where the extension is made

setup(ext_modules=extensions)
