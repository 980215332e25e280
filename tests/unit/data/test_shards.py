"""Resident memory stays bounded while reading a stream that is longer than memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from aurl_trainer.data.shards import MAPPED_BYTES, TOKEN_TYPE, Split

LENGTH = 2048
TOKENS = 2 * MAPPED_BYTES // np.dtype(TOKEN_TYPE).itemsize
SLACK = 16 * 2**20


def resident_bytes() -> int:
    """Return the resident bytes of the files that this process maps."""
    found = re.search(r"^RssFile:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("reported", [True, False])
def test_resident_memory_is_bounded_when_reads_are_reported(reported: bool, tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.arange(TOKENS, dtype=TOKEN_TYPE).tofile(path)
    split = Split(path, np.array([0, TOKENS], np.int64))
    before = most = resident_bytes()
    for begin in range(0, TOKENS, LENGTH):
        assert split.tokens[begin] == begin % 2**16
        split.tokens[begin : begin + LENGTH].max()
        if reported:
            split.count_reads(1, LENGTH)
        if begin % (256 * LENGTH) == 0:
            most = max(most, resident_bytes())
    most = max(most, resident_bytes())
    if reported:
        assert most - before <= MAPPED_BYTES + SLACK
    else:  # the control: without reports the test sees the memory grow
        assert most - before > 2 * MAPPED_BYTES - SLACK
