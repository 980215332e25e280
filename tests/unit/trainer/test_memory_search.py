"""The search for a micro-batch size: candidates, result, and sizes that are never tried."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from aurl_trainer.memory.capacity import HostMeter, available_memory
from aurl_trainer.memory.search import largest_that_fits, pass_sizes
from aurl_trainer.system import cgroup
from aurl_trainer.system.host_memory import HostMemory


@pytest.mark.parametrize(
    ("share", "least", "most", "sizes"),
    [
        (32, 4, 64, [4, 5, 6, 7, 8, 11, 16, 32]),
        (32, 4, 16, [4, 5, 6, 7, 8, 11, 16]),
        (100, 20, 64, [20, 25, 34, 50]),
        (3, 4, 64, [3]),
        (4, 4, 64, [4]),
        (7, 5, 6, [6]),  # no even size: 6 and 1
        (5, 1, 1, [1]),
    ],
)
def test_sizes_cut_a_share_into_even_passes(share: int, least: int, most: int, sizes: list[int]) -> None:
    assert pass_sizes(share, least, most) == sizes


SIZES = [4, 5, 6, 7, 8, 11, 16, 32, 64]


@pytest.mark.parametrize(
    ("fixed", "per_sample", "found", "tried"),
    [
        (0.0, 0.01, 64, [2, 4, 64]),
        (0.3, 0.04, 16, [2, 4, 16]),
        (0.0, 0.2, 5, [2, 4, 5]),
        (0.0, 0.25, 4, [2, 4]),
        (0.9, 0.025, 4, [2, 4]),
        (0.0, 0.3, None, [2, 4]),
        (0.95, 0.03, None, [2]),
    ],
)
def test_the_largest_size_that_fits_is_found_without_trying_one_that_does_not(
    fixed: float, per_sample: float, found: int | None, tried: list[int]
) -> None:
    asked: list[int] = []

    def load(size: int) -> float:
        asked.append(size)
        return fixed + per_sample * size

    assert largest_that_fits(SIZES, load) == found
    assert asked == tried


@pytest.mark.parametrize("limit", [4, 7, 11, 16, 40])
def test_a_curve_that_no_line_predicts_is_searched_by_halves(limit: int) -> None:
    """Hardly any load up to the limit, beyond it a failed allocation."""
    asked: list[int] = []

    def load(size: int) -> float:
        asked.append(size)
        return 0.01 if size <= limit else math.inf

    assert largest_that_fits(SIZES, load) == max(size for size in SIZES if size <= limit)
    assert len(asked) <= 7


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (
            {
                "memory.max": "1000",
                "memory.current": "700",
                "memory.stat": "anon 400\ninactive_file 200\nactive_file 50\n",
            },
            550,
        ),
        ({"memory.max": "max", "memory.current": "700", "memory.stat": ""}, None),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "900",
                "memory/memory.stat": "cache 300\ntotal_inactive_file 100\ntotal_active_file 20\n",
            },
            220,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({}, None),
    ],
)
def test_what_a_container_may_still_take(files: dict[str, str], left: int | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroup.memory_left(tmp_path) == left


def test_what_the_node_has_left(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert available_memory(meminfo) == 42 * 1024
    assert available_memory(tmp_path / "none") is None


def test_the_meter_sees_a_peak_that_is_over_again() -> None:
    memory = HostMemory()
    meter = HostMeter(memory, local_world_size=1)
    meter.begin()
    held, size = meter.held(), 96 * 2**20
    torch.ones(size, dtype=torch.uint8)
    assert size * 0.9 < meter.peak() - held < size * 1.5
    assert meter.capacity() > held
    highest = memory.peak
    meter.begin()
    assert meter.peak() - meter.held() < size / 2
    assert memory.peak >= highest  # the all-time peak stays
