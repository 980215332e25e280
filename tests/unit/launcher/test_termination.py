"""The termination message fits into the kubelet's 4096 bytes and stays valid JSON, for any content."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from aurl_trainer.contract import FAILED, TERMINATION_MESSAGE_LIMIT
from aurl_trainer.launcher.outcome import Outcome
from aurl_trainer.launcher.termination import build, encode

wild_text = st.text(st.characters(), max_size=9000)


@given(
    text=wild_text,
    exception=wild_text,
    names=st.lists(st.text(max_size=200), max_size=200),
    loss=st.floats(),
    path=st.text(max_size=6000),
)
def test_any_content_fits_and_keeps_what_the_operator_classifies_by(
    text: str, exception: str, names: list[str], loss: float, path: str
) -> None:
    outcome = Outcome(FAILED, text, failure_class="UserError", rank=3, exit_code=2, exception=exception)
    progress = {
        "step": 7,
        "loss": loss,
        "lastCheckpoint": {"step": 5, "path": path, "time": "2026-01-01T00:00:00Z"},
    }
    encoded = encode(build(outcome, progress, {"files": 3, "droppedNames": names}))
    assert len(encoded) <= TERMINATION_MESSAGE_LIMIT
    message = json.loads(encoded.decode("utf-8"))
    assert (message["state"], message["class"], message["rank"], message["exitCode"]) == (
        "Failed",
        "UserError",
        3,
        2,
    )
    assert (message["step"], message["lastCheckpoint"]["step"], message["dataset"]["files"]) == (7, 5, 3)


def test_a_message_that_fits_is_unchanged() -> None:
    message = {"message": "größer als 4 GiB", "dataset": {"droppedNames": ["a.mid", "b.mid"]}, "loss": 1.5}
    assert json.loads(encode(message)) == message


def test_a_long_message_keeps_its_beginning() -> None:
    message = json.loads(encode({"message": "cause: " + "ä" * 5000, "state": "Failed"}))
    assert message["message"].startswith("cause: ää")
    assert len(message["message"]) > 1000
