"""``mezzo setup``: a working configuration for this machine. It looks, decides and prints; it touches nothing."""

from __future__ import annotations

from mezzo_server.setup.proposal import Proposal, Wishes, propose
from mezzo_server.setup.writing import write_toml

__all__ = ["Proposal", "Wishes", "propose", "write_toml"]
