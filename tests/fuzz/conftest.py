"""Every run tries the same examples."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tinyp2p", derandomize=True, deadline=None, database=None)
settings.load_profile("tinyp2p")
