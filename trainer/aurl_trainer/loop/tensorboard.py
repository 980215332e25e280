"""TensorBoard event files on the volume, written by rank 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class TensorBoard:
    """Writes scalars over steps; a no-op if disabled."""

    def __init__(self, directory: Path, *, enabled: bool, start: int) -> None:
        self._directory = directory
        self._writer = self._open(start) if enabled else None

    def rewind(self, step: int) -> None:
        """Continue the curves from `step`, purging later points."""
        if self._writer is not None:
            self._writer.close()
            self._writer = self._open(step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each named curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all points to the volume."""
        if self._writer is not None:
            self._writer.flush()

    def _open(self, start: int) -> SummaryWriter:
        # Steps after the checkpoint that training continues from are trained again.
        purge = start + 1 if start else None
        return SummaryWriter(str(self._directory), purge_step=purge, flush_secs=30)

    def close(self) -> None:
        """Write all points to the volume and stop the writer's thread."""
        if self._writer is not None:
            self._writer.close()
