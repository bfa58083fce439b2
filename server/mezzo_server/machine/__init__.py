"""What this machine is: read, never changed.

`host` is the one module that looks; the others make sense of what it saw, so that a test can play any
machine by giving them another `Host`.
"""

from __future__ import annotations

from mezzo_server.machine.host import Host

__all__ = ["Host"]
