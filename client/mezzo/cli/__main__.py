"""``python -m mezzo.cli``: the same as the command ``mezzo``."""

from mezzo.cli.app import main

main()
