"""File names of checkpoints. Imports no torch, for the launcher."""

from __future__ import annotations

import re
from typing import Final

MARKER: Final = "COMMITTED"
MANIFEST: Final = "manifest.json"
STATE_FILE: Final = "state.json"

CHECKPOINT_NAME: Final = re.compile(r"^step-(\d{8,})$")
