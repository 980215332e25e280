"""Memory and processor time of a process, from the kernel."""

from __future__ import annotations

import time
from pathlib import Path


def memory_mib(name: str, pid: int | str = "self") -> float:
    """Return a line of /proc/<pid>/status in MiB: VmRSS, or VmHWM for the peak; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process so far, terminated ones included."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns on Linux


class Usage:
    """Processor time and memory of a process since this object was created."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._wall, self._cpu = time.monotonic(), cpu_seconds(pid)

    def cpu_seconds(self) -> float:
        """Return the processor time."""
        return cpu_seconds(self.pid) - self._cpu

    def report(self) -> dict[str, float]:
        """Return the mean processor share in percent, and resident memory now in MiB."""
        share = self.cpu_seconds() / (time.monotonic() - self._wall)
        rss = memory_mib("VmRSS", self.pid)
        return {"cpu_percent": round(100 * share, 2), "rss_mib": round(rss, 1)}
