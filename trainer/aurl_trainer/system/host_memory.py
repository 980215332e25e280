"""Resident memory of this process: now, its peak since the last reset, and its peak ever."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class HostMemory:
    """Reads the kernel's counters, and keeps the all-time peak across resets."""

    def __init__(self) -> None:
        self.peak = 0
        """Largest resident memory seen, in bytes, across resets."""
        self._untaken = 0

    def read(self) -> tuple[int, int]:
        """Return the resident bytes now, and their peak since the last reset."""
        now, peak = _resident()
        self.peak = max(self.peak, peak)
        self._untaken = max(self._untaken, peak)
        return now, peak

    def take_peak(self) -> int:
        """Return the peak since the last call in bytes, even across other resets, and reset it."""
        self.reset_peak()
        taken, self._untaken = self._untaken, 0
        return taken

    def reset_peak(self) -> None:
        """Reset the peak to what is resident now, if the kernel supports it."""
        self.read()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # proc(5): resets VmHWM


def _resident() -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        kibibytes = {
            line.split(":")[0]: int(line.split()[1])
            for line in _STATUS.read_text().splitlines()
            if line.startswith(("VmRSS", "VmHWM"))
        }
        return kibibytes["VmRSS"] * 1024, kibibytes["VmHWM"] * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak
