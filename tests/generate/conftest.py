from __future__ import annotations

from tests.base.conftest import family_folder, family_model

__all__ = ["family_folder", "family_model"]
