"""CPU limit, memory limit and out-of-memory kills of the container, from cgroup v1 or v2."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")

_UNLIMITED = 1 << 60
"""cgroup v1 shows the largest page-aligned integer if there is no limit."""


def cpu_limit(root: Path = ROOT) -> float | None:
    """Return the CPU limit in cores, or None without a limit."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        quota, period = (root / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    for folder in ("cpu", "cpu,cpuacct"):
        with contextlib.suppress(OSError, ValueError):
            quota_us = int((root / folder / "cpu.cfs_quota_us").read_text())
            period_us = int((root / folder / "cpu.cfs_period_us").read_text())
            return None if quota_us <= 0 else quota_us / period_us
    return None


def memory_left(root: Path = ROOT) -> int | None:
    """Return the bytes that this container can still use up to its limit, or None without a limit.

    File pages do not count as used: the kernel reclaims them before it kills.
    """
    for limit, used, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_"),
    ):
        with contextlib.suppress(OSError, ValueError):
            text = (root / limit).read_text().strip()
            if text == "max" or int(text) >= _UNLIMITED:
                return None
            lines = (root / used).with_name("memory.stat").read_text().splitlines()
            counts = dict(line.split()[:2] for line in lines if line)
            files = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
            return int(text) - (int((root / used).read_text()) - files)
    return None


def oom_kills(root: Path = ROOT) -> int:
    """Return the number of processes of this container killed for exceeding memory; 0 if unknown."""
    for file in ("memory.events", "memory/memory.oom_control"):
        with contextlib.suppress(OSError, ValueError):
            for line in (root / file).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def available_cpus(root: Path = ROOT) -> int:
    """Return the number of CPUs of this process, by its affinity and the container's limit."""
    limit = cpu_limit(root)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if limit is None else min(cores, max(1, math.ceil(limit)))


def threads_per_rank(procs_per_node: int, root: Path = ROOT) -> int:
    """Return the number of compute threads per rank, so that the ranks of a node share its CPUs."""
    return max(1, available_cpus(root) // procs_per_node)
