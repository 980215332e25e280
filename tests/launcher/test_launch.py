"""The launcher as a process: real torchrun, small ranks, the views of operator and Prometheus."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aurl_dev.ports import free_port
from launcher.harness import (
    RunningLauncher,
    clean_environment,
    eventually,
    processes_mentioning,
)

Start = Callable[..., RunningLauncher]


def samples(exposition: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def test_a_successful_launch_is_served_until_the_last_scrape_and_explained(start: Start) -> None:
    launcher = start("train", "train.py", nproc_per_node=2, linger_seconds=3600)
    eventually("the termination message", lambda: launcher.termination_log.stat().st_size > 0)
    progress = launcher.progress()

    assert progress["state"] == "Finished"
    identity = ("job", "namespace", "attempt", "nodeRank", "worldSize", "role")
    assert [progress[key] for key in identity] == ["chorales", "music", 2, 0, 2, "train"]
    assert (progress["step"], progress["totalSteps"], progress["initialLoss"], progress["tokensTotal"]) == (
        4,
        4,
        4.0,
        2048,
    )
    assert progress["lastCheckpoint"]["path"] == "music/chorales/checkpoints/step-00000004"
    assert [event["kind"] for event in progress["events"]] == ["CheckpointDamaged"] * 2
    assert progress["heartbeatAgeSeconds"] >= 0

    values = samples(launcher.get("/metrics"))
    assert values["aurl_train_tokens_total", frozenset()] == 2048
    assert values["aurl_train_state", frozenset({("state", "Finished")})] == 1
    assert values["aurl_train_loss", frozenset({("split", "train")})] == 1.0
    assert {dict(labels)["rank"] for name, labels in values if name == "aurl_train_memory_bytes"} == {
        "0",
        "1",
    }

    # What has been mapped into the process tells best what it has imported by now.
    mapped = Path(f"/proc/{launcher.process.pid}/maps").read_text()
    assert not [name for name in ("torch", "numpy", "pydantic", "yaml", "matplotlib") if f"/{name}" in mapped]

    launcher.terminate()
    assert launcher.wait() == 0
    message = launcher.message()
    assert (message["state"], message["class"], message["step"], message["loss"]) == (
        "Succeeded",
        None,
        4,
        1.0,
    )
    assert message["lastCheckpoint"] == progress["lastCheckpoint"]


@pytest.mark.parametrize(
    ("end", "exit_code", "failure_class", "words"),
    [
        ("user-error", 2, "UserError", "lower it to 64 or less"),
        ("memory", 137, "OutOfMemory", "12 GiB"),
        ("kill", 137, "Infrastructure", "SIGKILL"),
    ],
)
def test_the_first_failed_rank_is_the_root_cause(
    start: Start, end: str, exit_code: int, failure_class: str, words: str
) -> None:
    # Rank 0 only waits; torchrun ends it when rank 1 is gone.
    launcher = start(
        "train", "train.py", nproc_per_node=2, script_env={"SCRIPT_END": end, "SCRIPT_RANK": "1"}
    )
    assert launcher.wait() == exit_code, launcher.log.read_text()
    message = launcher.message()
    assert (message["state"], message["class"], message["rank"]) == ("Failed", failure_class, 1)
    assert words in f"{message['message']} {message['exception']}"
    assert message["signal"] == ("SIGKILL" if end == "kill" else None)
    assert message["lastCheckpoint"]["step"] == 4
    assert not processes_mentioning(str(launcher.run_dir))


def test_a_hang_is_visible_and_ends_within_the_grace_period(start: Start) -> None:
    launcher = start("train", "train.py", grace_seconds=2, script_env={"SCRIPT_END": "hang"})
    launcher.wait_for_progress("the last step", lambda p: p["step"] == 4 and p["heartbeatAgeSeconds"] > 1)
    first = launcher.progress()["heartbeatAgeSeconds"]
    launcher.wait_for_progress("an older heartbeat", lambda p: p["heartbeatAgeSeconds"] > first + 0.5)
    beats = samples(launcher.get("/metrics"))[
        "aurl_train_heartbeat_timestamp_seconds", frozenset({("rank", "0")})
    ]
    assert beats > 0

    launcher.terminate()
    assert launcher.wait() == 143
    assert launcher.message()["state"] == "Interrupted"
    assert not processes_mentioning(str(launcher.run_dir))


def test_ranks_that_hang_leave_their_stacks_and_end_as_a_hang(start: Start) -> None:
    launcher = start(
        "train", "train.py", nproc_per_node=2, hang_seconds=1, script_env={"SCRIPT_END": "deadlock"}
    )
    assert launcher.wait() == 124, launcher.log.read_text()
    message = launcher.message()
    assert (message["state"], message["class"], message["step"]) == ("Failed", "Hang", 4)
    assert "the ranks hang at step 4" in message["message"]
    stacks = launcher.folder / "volume/music/chorales/stacks/attempt-2"
    for rank in (0, 1):
        text = (stacks / f"rank-{rank}.txt").read_text()
        assert f"rank {rank}, process" in text
        assert "state Training, step 4" in text
        assert "in wait_for_ever_on_a_lock" in text
    assert not processes_mentioning(str(launcher.run_dir))


def test_two_nodes_that_hang_both_report_it_and_show_the_rank_behind(start: Start) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    # The one that waits ends well before the other, whose rank does not notice: so the order is certain.
    nodes = [
        start(
            "train", "collective.py", name=f"hung{rank}", num_nodes=2, node_rank=rank, rdzv_endpoint=endpoint,
            pod_ip="127.0.0.1", hang_seconds=(3, 6)[rank], script_env={"SCRIPT_FORGETS": "1"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for rank, node in enumerate(nodes):
        assert node.wait() == 124, node.log.read_text()
        assert node.message()["class"] == "Hang"
        stacks = node.folder / f"volume/music/chorales/stacks/attempt-2/rank-{rank}.txt"
        assert ("all_reduce" if rank == 0 else "forget_the_others") in stacks.read_text()


def test_sigterm_to_a_launcher_whose_ranks_hang_saves_their_stacks_as_well(start: Start) -> None:
    launcher = start(
        "train", "train.py", hang_seconds=6, grace_seconds=2, script_env={"SCRIPT_END": "deadlock"}
    )
    launcher.wait_for_progress("standstill", lambda p: p["step"] == 4 and p["heartbeatAgeSeconds"] > 4)
    launcher.terminate()
    assert launcher.wait() in (143, 124), launcher.log.read_text()  # 124 where this machine took its time
    stacks = launcher.folder / "volume/music/chorales/stacks/attempt-2/rank-0.txt"
    assert "in wait_for_ever_on_a_lock" in stacks.read_text()


def test_sigterm_in_training_lets_every_rank_save(start: Start) -> None:
    launcher = start("train", "train.py", nproc_per_node=2, script_env={"SCRIPT_END": "wait"})
    launcher.wait_for_progress("training", lambda p: p["step"] == 4 and p["lastCheckpoint"] is not None)
    launcher.terminate()
    assert launcher.wait() == 143, launcher.log.read_text()
    message = launcher.message()
    assert (message["state"], message["class"], message["step"]) == ("Interrupted", None, 4)
    assert "checkpoint of the last step was saved" in message["message"]


def test_sigterm_in_the_rendezvous_ends_immediately(start: Start) -> None:
    launcher = start(
        "train",
        "train.py",
        num_nodes=2,
        node_rank=0,
        rdzv_endpoint=f"127.0.0.1:{free_port()}",
        grace_seconds=3600,
    )
    eventually(
        "the agent", lambda: launcher.is_serving() and len(processes_mentioning(str(launcher.run_dir))) >= 2
    )
    launcher.terminate()
    assert launcher.wait() == 143
    assert launcher.message()["state"] == "Interrupted"
    assert not processes_mentioning(str(launcher.run_dir))


def test_a_killed_agent_takes_its_ranks_along(start: Start) -> None:
    launcher = start("train", "train.py", script_env={"SCRIPT_END": "wait"})
    launcher.wait_for_progress("training", lambda p: p["step"] == 4)
    (agent,) = [
        pid
        for pid in processes_mentioning(str(launcher.run_dir / "agent.json"))
        if b"aurl_trainer.launcher.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(agent, signal.SIGKILL)
    assert launcher.wait() == 137
    assert launcher.message()["class"] == "Infrastructure"
    assert not processes_mentioning(str(launcher.run_dir))


def test_two_nodes_find_each_other_and_a_lost_peer_is_infrastructure(start: Start) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    first, second = (
        start(
            "train", "collective.py", name=f"node{rank}", num_nodes=2, node_rank=rank, rdzv_endpoint=endpoint,
            pod_ip="127.0.0.1",
        )
        for rank in (0, 1)
    )  # fmt: skip
    seen = first.wait_for_progress("training on both nodes", lambda p: p["step"] >= 3)
    assert seen["loss"] == 3.0  # 1 + 2: both ranks have contributed
    there = second.wait_for_progress("training on both nodes", lambda p: p["step"] >= 3)
    assert there["loss"] is None  # what holds for the whole job is rank 0's to tell
    assert not {name for name, _ in samples(second.get("/metrics"))} & {
        "aurl_train_loss",
        "aurl_train_tokens_total",
    }

    (pid,) = rank_pids(second)
    os.kill(pid, signal.SIGKILL)
    assert second.wait() == 137
    assert first.wait() == 1, first.log.read_text()
    message = first.message()
    assert (message["class"], message["rank"]) == ("Infrastructure", 0)
    assert "lost its connection" in message["message"]
    assert message["peerLost"] is True
    assert second.message()["peerLost"] is False
    assert "GLHF" not in message["message"]


def rank_pids(launcher: RunningLauncher) -> list[int]:
    return [json.loads(path.read_text())["pid"] for path in launcher.run_dir.glob("rank-*.json")]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"nproc_per_node": "two"}, "AURL_NPROC_PER_NODE is 'two' but must be an integer of at least 1."),
        ({"num_nodes": "2", "node_rank": "0"}, "AURL_RDZV_ENDPOINT is not set"),
        ({"volume": ""}, "AURL_VOLUME is not set"),
    ],
)
def test_an_environment_error_is_one_sentence(start: Start, variables: dict[str, str], words: str) -> None:
    launcher = start("train", **variables)
    assert launcher.wait() == 2
    assert words in launcher.message()["message"]
    assert "Traceback" not in launcher.log.read_text()


def test_every_line_of_a_pods_log_is_json_with_the_same_fields(start: Start) -> None:
    launcher = start(
        "train", "train.py", nproc_per_node=2, script_env={"SCRIPT_END": "user-error", "SCRIPT_RANK": "1"}
    )
    assert launcher.wait() == 2
    lines = [json.loads(line) for line in launcher.log.read_text().splitlines()]
    for line in lines:
        who = [line[field] for field in ("namespace", "job", "attempt", "nodeRank")]
        assert who == ["music", "chorales", 2, 0]
        assert {"time", "level", "message", "logger"} <= line.keys()
    begun = [line for line in lines if line["message"] == "the rank begins"]
    assert sorted((line["rank"], line["step"]) for line in begun) == [(0, 0), (1, 0)]
    plain = [line for line in lines if line["message"] == "plain words, as a hook may print them"]
    assert [(line["logger"], "rank" in line) for line in plain] == [("output", False)] * 2
    # The traceback is one line, and torchrun tells at its own level that a rank has failed.
    (failed,) = [line for line in lines if "traceback" in line]
    assert (failed["rank"], failed["level"]) == (1, "critical")
    assert "lower it to 64 or less" in failed["message"] and "train.py" in failed["traceback"]
    assert [line for line in lines if line["logger"] == "output" and line["level"] == "error"]
    assert lines[-1]["message"].startswith("launcher: ") and lines[-1]["rank"] == 1

    shown = subprocess.run(
        [sys.executable, "-m", "aurl_trainer", "logs"],
        stdin=launcher.log.open(), env=clean_environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search(r"^\d\d:\d\d:\d\d rank 0: the rank begins  step=0$", shown, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d CRITICAL rank 1: UserError: .*\nTraceback ", shown, re.MULTILINE)
