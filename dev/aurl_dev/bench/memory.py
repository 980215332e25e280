"""What a process holds in memory, as /proc tells it."""

from __future__ import annotations

from pathlib import Path


def memory_mib(name: str, pid: int | str = "self") -> float:
    """A line of a process's status in MiB: VmRSS, or VmHWM for the peak; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)
