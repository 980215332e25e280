"""Missing ranks after a failed collective, according to the rendezvous store."""

from __future__ import annotations

import pytest
from torch._C._distributed_c10d import HashStore

from aurl_trainer.distributed import failures
from aurl_trainer.distributed.failures import HUNG, LOST, explain, roll_call
from aurl_trainer.errors import HangError, PeerLostError


@pytest.mark.parametrize(
    ("world_size", "mine", "others", "missing", "hang"),
    [
        (2, HUNG, {}, [1], True),
        (2, LOST, {}, [1], False),
        (4, HUNG, {1: HUNG, 3: LOST}, [2], True),
        # The others gave up first and broke their connections: that is all that this rank saw.
        (4, LOST, {1: HUNG, 3: LOST}, [2], True),
        (4, LOST, {1: LOST, 2: LOST}, [3], False),
        (4, LOST, {2: LOST}, [1, 3], False),
    ],
)
def test_those_who_do_not_answer_are_missing(
    world_size: int,
    mine: str,
    others: dict[int, str],
    missing: list[int],
    hang: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "ROLL_CALL_SECONDS", 0.3)
    store = HashStore()
    for rank, what in others.items():
        store.set(f"aurl/failed/{rank}", what)
    assert roll_call(store, 0, world_size, mine) == (missing, hang)
    assert store.get("aurl/failed/0").decode() == mine


def test_the_error_names_step_and_ranks() -> None:
    error = explain(0, 7, 120, [1, 3], True, "")
    assert isinstance(error, HangError)
    assert str(error).startswith("Rank 0 waited up to 120 s in step 7 for rank 1 and rank 3, which did not")
    error = explain(0, 7, 120, [], False, "Connection closed by peer")
    assert isinstance(error, PeerLostError)
    assert str(error) == "another rank disconnected in step 7: Connection closed by peer"
