"""What a supervisor starts: ``python -m mezzo_server.supervisor.process KIND PARENT NAME [CORES]``.

KIND is shard, frontend or metadata.  It takes the settings that the supervisor has resolved from standard input, so that
the file is read once, ends with the process PARENT, is called NAME in logs, and runs on CORES alone.  No command line is
parsed for people here: what that takes to import would be waited for at each restart of a shard.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from mezzo.errors import InvalidArgument, MezzoError
from mezzo_server.config import NodeConfig
from mezzo_server.config.reach import authenticates
from mezzo_server.frontend.before_grpc import before_grpc
from mezzo_server.logs import configure_logs
from mezzo_server.supervisor.parent import die_with, run_on

RESOLVED_BYTES_MAX = 1024 * 1024
EXIT_ERROR = 2


def run(arguments: Sequence[str]) -> int:
    """Be that process until SIGTERM or SIGINT; its exit status. What went wrong is one line on standard error."""
    try:
        kind, parent, name, cores = [*arguments, ""][:4]
        die_with(int(parent))
        config = resolved(sys.stdin.buffer.read(RESOLVED_BYTES_MAX + 1))
        configure_logs(config.log, name)
        if cores:
            run_on(cores)
        _KINDS[kind](config)
    except MezzoError as error:
        return _failed(str(error) or type(error).__name__)
    except ImportError as error:
        from mezzo.cli.app import missing

        return _failed(missing(error))
    except OSError as error:
        named = error.filename is not None and error.strerror
        return _failed(f"{error.filename}: {error.strerror}" if named else str(error))
    return 0


def resolved(raw: bytes) -> NodeConfig:
    """Settings as a supervisor hands them over. Raises InvalidArgument: they are none."""
    try:
        return msgspec.json.decode(raw, type=NodeConfig)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"standard input has no settings: {error}") from None


def _shard(config: NodeConfig) -> None:
    from mezzo_server.shard.main import serve

    serve(
        config.shard,
        _say,
        None,
        config.metrics,
        _say_devices,
        tls=config.tls,
        authenticated=authenticates(config),
        node=config,
    )


def _frontend(config: NodeConfig) -> None:
    before_grpc()
    from mezzo_server.frontend.main import serve

    serve(config, _say)


def _metadata(config: NodeConfig) -> None:
    before_grpc()
    from mezzo_server.metadata.service.main import serve

    serve(config, _say)


_KINDS = {"shard": _shard, "frontend": _frontend, "metadata": _metadata}


def _say(what: object) -> None:
    """To the supervisor, in one line."""
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


def _say_devices(names: list[str]) -> None:
    """For the next start: which devices the store has by now."""
    try:
        _say({"devices": names})
    except OSError:
        pass  # the supervisor has ended, and we are about to


def _failed(message: str) -> int:
    sys.stderr.write(f"mezzo: {' '.join(message.split())}\n")
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
