"""The accounts of a job's time always add up to its wall clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurl_trainer.monitor.goodput import GOODPUT_FILE, Accounts, GoodputFile
from aurl_trainer.monitor.snapshot import PHASES

SECONDS = st.floats(0, 1e5)
CHANGES = st.one_of(
    st.tuples(st.just("add"), st.dictionaries(st.sampled_from(PHASES), SECONDS)),
    st.tuples(st.just("resume"), SECONDS),
    st.tuples(st.just("mark"), st.integers(0, 1000)),
    st.tuples(st.just("rewind"), st.integers(0, 1000)),
)


@given(st.lists(CHANGES, max_size=30))
def test_the_accounts_always_add_up_to_wall_clock(changes: list[tuple[str, object]]) -> None:
    accounts = Accounts(1000.0, 1000.0)
    for what, argument in changes:
        if what == "resume":
            argument = (
                accounts.settled_at + float(str(argument)) - 10.0
            )  # clocks of two machines may disagree
        getattr(accounts, what)(argument)
        total = accounts.goodput + sum(accounts.badput.values())
        assert total == pytest.approx(accounts.settled_at - accounts.started_at)
        assert accounts.goodput >= 0 and min(accounts.badput.values()) >= 0


def test_training_after_the_checkpoint_of_a_killed_process_is_lost_progress(tmp_path: Path) -> None:
    first = GoodputFile(tmp_path, 100.0)
    first.settle({"init": 5.0, "step": 20.0})
    first.accounts.mark(40)
    first.settle({"init": 5.0, "step": 26.0, "checkpoint": 1.0})
    first.write()
    # Killed here; the next process starts at 150 and finds the checkpoint of step 40.
    second = GoodputFile(tmp_path, 150.0)
    second.settle({"init": 4.0})
    second.accounts.rewind(40)
    accounts = second.accounts
    spent = {cause: seconds for cause, seconds in accounts.badput.items() if seconds}
    assert accounts.goodput == 20.0
    assert spent == {"init": 9.0, "checkpoint": 1.0, "lost_progress": 6.0, "restart": 18.0}
    assert accounts.ratio == pytest.approx(20 / 54)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"started_at": 1, "settled_at": "x"}'])
def test_a_damaged_file_starts_new_accounts(content: str, tmp_path: Path) -> None:
    (tmp_path / GOODPUT_FILE).write_text(content)
    accounts = GoodputFile(tmp_path, 5.0).accounts
    assert (accounts.started_at, accounts.settled_at, accounts.goodput) == (5.0, 5.0, 0.0)
