"""``python -m mezzo_server``: the server's commands alone."""

from mezzo_server.cli import main

main()
