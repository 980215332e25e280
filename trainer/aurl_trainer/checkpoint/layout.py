"""What the files of a checkpoint are called; imports no torch, so that the launcher can look at them too."""

from __future__ import annotations

import re
from typing import Final

MARKER: Final = "COMMITTED"
MANIFEST: Final = "manifest.json"
STATE_FILE: Final = "state.json"

CHECKPOINT_NAME: Final = re.compile(r"^step-(\d{8,})$")
