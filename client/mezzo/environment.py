"""What the environment says of clients, where it is yes or no."""

from __future__ import annotations

import os

DISABLE_VARIABLE = "MEZZO_DISABLE"
INSECURE_VARIABLE = "MEZZO_INSECURE"


def says(variable: str) -> bool:
    """Whether ``variable`` says yes."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")
