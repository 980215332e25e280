"""This process's resident memory: now, at its peak since the last reset, and at its peak ever."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class HostMemory:
    """Reads what the kernel counts; keeps the peak of the whole life when the kernel's mark is reset."""

    def __init__(self) -> None:
        self.peak = 0
        """Largest resident memory that was seen, in bytes, resets or not."""
        self._untaken = 0

    def read(self) -> tuple[int, int]:
        """Return the resident bytes now and at their peak since the last reset."""
        now, peak = _resident()
        self.peak = max(self.peak, peak)
        self._untaken = max(self._untaken, peak)
        return now, peak

    def take_peak(self) -> int:
        """Return the peak since the last call in bytes, whoever has reset it since, and begin a new one."""
        self.reset_peak()
        taken, self._untaken = self._untaken, 0
        return taken

    def reset_peak(self) -> None:
        """Begin a new peak at what is resident now; where the kernel has no such reset, the old one stays."""
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
