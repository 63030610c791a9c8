from __future__ import annotations

from tests.adapters.bases import folders, load

__all__ = ["folders", "load"]
