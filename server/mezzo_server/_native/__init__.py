"""The only compiled part: `ring` over liburing, `pool` of threads that never meet the interpreter.

Either submodule raises ImportError where it was not built (no compiler, no headers); the devices and
workers above then fall back to threads of the interpreter.
"""
