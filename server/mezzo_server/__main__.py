"""``python -m mezzo_server``: ``serve`` and ``check``."""

from mezzo_server.cli import main

main()
