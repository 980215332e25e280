"""plan() as tables: all or nothing, PodGroups and queues, and jobs that shrink and grow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aurl_operator.core.actions import Refusal
from aurl_operator.core.placement import pause_seconds
from aurl_operator.core.podsecurity import violations
from unit.operator.builders import TRAINED, Object, World, make_job, prepared, running

ELASTIC: Object = {"minNodes": 1, "maxNodes": 4, "growIntervalSeconds": 120}


def workers(world: World, role: str = "worker") -> list[str]:
    """Return worker (or placeholder) pods that are not being deleted."""
    return sorted(
        name
        for name, pod in world.pods.items()
        if pod["metadata"]["labels"]["aurl.ai/role"] == role and "deletionTimestamp" not in pod["metadata"]
    )


def environment(world: World, pod: str) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in world.pods[pod]["spec"]["containers"][0]["env"]}


def forward(world: World, seconds: float) -> None:
    """Advance the clock; pods that are being deleted go away."""
    world.now += timedelta(seconds=seconds)
    world.settle()
    world.all_pods_end()
    world.settle()


def elastic(nodes: int = 2, **changes: Any) -> Object:
    return make_job(numNodes=nodes, elastic={**ELASTIC, **changes})


# -------------------------------------------------------------------- all or nothing


def test_a_partly_placed_gang_is_released_and_retried() -> None:
    world = prepared(make_job(gangScheduling={"scheduleTimeoutSeconds": 60}))
    world.run("bach-0-0")
    forward(world, 59)
    assert workers(world) == ["bach-0-0", "bach-0-1"]
    forward(world, 2)
    assert workers(world) == []
    assert world.condition("Stalled") == ("True", "GangReleased")
    assert "Only 1 of 2 pods found room within 60 s" in world.message("Stalled")
    assert world.events.count("GangReleased") == 1
    assert world.status["restarts"]["total"] == 0
    pause = pause_seconds(world.job["metadata"]["uid"], 0)
    assert world.last.requeue_after == pytest.approx(pause, abs=1.1)
    forward(world, pause - 1.5)
    assert workers(world) == []
    forward(world, 2)
    assert workers(world) == ["bach-1-0", "bach-1-1"]
    world.run("bach-1-0", "bach-1-1")
    world.settle()
    assert world.state == "Running"
    assert "scheduling" not in world.status


def test_a_gang_without_any_room_blocks_no_other_job_and_waits() -> None:
    world = prepared(make_job(gangScheduling={"scheduleTimeoutSeconds": 60}))
    forward(world, 10_000)
    assert workers(world) == ["bach-0-0", "bach-0-1"]


def test_the_start_up_deadline_counts_over_all_tries() -> None:
    policy = {"startupDeadlineSeconds": 100}
    world = prepared(make_job(gangScheduling={"scheduleTimeoutSeconds": 60}, runPolicy=policy))
    world.run("bach-0-0")
    forward(world, 61)
    forward(world, 30)
    world.now += timedelta(seconds=10)
    world.settle()
    assert world.condition("Failed") == ("True", "StartupDeadlineExceeded")
    assert "found room" in world.message("Failed")


def test_pods_that_a_quota_refuses_in_part_are_released_as_well() -> None:
    world = prepared(make_job(gangScheduling={"scheduleTimeoutSeconds": 60}))
    del world.pods["bach-0-1"]
    del world.job["status"]["launch"]["createdTime"]
    world.refusals["bach-0-1"] = Refusal(403, "exceeded quota: small", world.now)
    world.run("bach-0-0")
    world.settle()
    assert world.condition("Stalled") == ("True", "QuotaExceeded")
    forward(world, 61)
    assert workers(world) == []


def test_pauses_differ_between_jobs_and_grow_to_a_bound() -> None:
    for releases, base in ((0, 10), (1, 20), (2, 40), (6, 600), (400, 600)):
        pauses = {pause_seconds(f"uid-{n}", releases) for n in range(50)}
        assert len(pauses) == 50
        assert all(0.5 * base <= pause <= 1.5 * base for pause in pauses)


def test_two_jobs_that_each_hold_half_both_train_in_the_end() -> None:
    """Two jobs of two pods compete for two places; the scheduler serves them in turn."""
    worlds = []
    for n in (1, 2):
        job = make_job(gangScheduling={"scheduleTimeoutSeconds": 30})
        job["metadata"]["uid"] = f"00000000-0000-0000-0000-00000000000{n}"
        worlds.append(prepared(job))
    taken = 0
    for second in range(4000):
        for world in worlds:
            world.now += timedelta(seconds=1)
            world.settle()
            world.all_pods_end()
        placed = [
            p for w in worlds for n, p in w.pods.items() if p["spec"].get("nodeName") and "prep" not in n
        ]
        taken = sum(p["status"]["phase"] in ("Pending", "Running") for p in placed)
        assert taken <= 2
        for world in worlds if second % 2 else worlds[::-1]:
            waiting = [name for name in workers(world) if not world.pods[name]["spec"].get("nodeName")]
            if waiting and taken < 2:
                world.run(waiting[0])
                taken += 1
        for world in worlds:
            if world.state == "Running" and second % 50 == 0:
                for name in workers(world):
                    world.succeed(name, TRAINED)
        if all(world.state == "Succeeded" for world in worlds):
            break
    assert [world.state for world in worlds] == ["Succeeded", "Succeeded"]
    assert any("GangReleased" in world.events for world in worlds)


# -------------------------------------------------------------------- other schedulers


@pytest.mark.parametrize(
    ("gangs", "labels", "annotations", "scheduler"),
    [
        ({"provider": "Volcano"}, {}, {"scheduling.k8s.io/group-name": "bach-0"}, "volcano"),
        (
            {"provider": "SchedulerPlugins"},
            {"scheduling.x-k8s.io/pod-group": "bach-0"},
            {},
            "scheduler-plugins-scheduler",
        ),
        (
            {"provider": "Kueue", "queue": "team"},
            {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/pod-group-name": "bach-0"},
            {"kueue.x-k8s.io/pod-group-total-count": "2", "kueue.x-k8s.io/retriable-in-group": "false"},
            None,
        ),
    ],
)
def test_pods_carry_the_settings_of_other_schedulers(
    gangs: Object, labels: Object, annotations: Object, scheduler: str | None
) -> None:
    pod = prepared(make_job(gangScheduling=gangs)).pods["bach-0-1"]
    assert labels.items() <= pod["metadata"]["labels"].items()
    assert annotations.items() <= pod["metadata"]["annotations"].items()
    assert pod["spec"].get("schedulerName") == scheduler


def test_a_pod_group_for_each_attempt_comes_before_its_pods() -> None:
    world = prepared(make_job(gangScheduling={"provider": "Volcano", "queue": "music"}))
    group = world.pod_groups["bach-0"]
    assert group["apiVersion"] == "scheduling.volcano.sh/v1beta1"
    assert group["spec"] == {"minMember": 2, "queue": "music"}
    assert group["metadata"]["ownerReferences"][0]["name"] == "bach"
    world.run("bach-0-0", "bach-0-1")
    world.settle()
    world.fail("bach-0-0", 3)
    forward(world, 5)
    assert list(world.pod_groups) == ["bach-1"]
    assert workers(world) == ["bach-1-0", "bach-1-1"]
    assert world.pods["bach-1-0"]["spec"]["schedulerName"] == "volcano"


def test_a_scheduler_that_is_not_installed_is_reported() -> None:
    world = World(make_job(gangScheduling={"provider": "SchedulerPlugins"}))
    world.refusals["bach-0"] = Refusal(404, "the server could not find the requested resource", world.now)
    world.settle()
    world.succeed("bach-prepare-0", {"state": "Succeeded"})
    world.settle()
    assert workers(world) == []
    assert world.condition("Stalled") == ("True", "GangSchedulerMissing")


def test_a_queue_that_holds_the_pods_back_stops_the_deadlines() -> None:
    policy = {"activeDeadlineSeconds": 60, "startupDeadlineSeconds": 60}
    queue = {"provider": "Kueue", "queue": "team"}
    world = prepared(make_job(gangScheduling=queue, runPolicy=policy))
    gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    for name in workers(world):
        world.pods[name]["status"]["conditions"] = [gate]
    world.settle()
    assert world.condition("Stalled") == ("True", "Queued")
    forward(world, 5000)
    assert world.state == "Starting"
    world.run("bach-0-0", "bach-0-1")
    world.settle()
    assert world.condition("Stalled")[0] == "False"
    forward(world, 59)
    assert world.state == "Running"
    forward(world, 2)
    assert world.condition("Failed") == ("True", "DeadlineExceeded")


def test_time_in_a_queue_stops_the_active_deadline_but_does_not_reset_it() -> None:
    queue = {"provider": "Kueue", "queue": "team"}
    world = prepared(make_job(gangScheduling=queue, runPolicy={"activeDeadlineSeconds": 600}))
    gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    for attempt in range(3):
        names = workers(world)
        assert names == [f"bach-{attempt}-0", f"bach-{attempt}-1"]
        for name in names:
            world.pods[name]["status"]["conditions"] = [gate]
        world.settle()
        forward(world, 5000)
        assert world.status["queuedSince"]
        world.run(*names)
        world.settle()
        assert world.status["queuedSeconds"] == 5000 * (attempt + 1)
        assert world.status["startTime"] == "2026-01-01T12:00:00Z"
        forward(world, 185)
        assert world.state == "Running"
        world.ask_to_leave(names[0])
        world.pods[names[0]]["status"]["conditions"] = [{"type": "TerminationTarget", "status": "True"}]
        forward(world, 0)
        forward(world, 10)
    forward(world, 20)
    assert world.condition("Failed") == ("True", "DeadlineExceeded")


def test_a_suspension_forgets_the_time_in_the_queue() -> None:
    world = prepared(make_job(gangScheduling={"provider": "Kueue", "queue": "team"}))
    gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    for name in workers(world):
        world.pods[name]["status"]["conditions"] = [gate]
    world.settle()
    world.job["spec"]["suspend"] = True
    world.settle()
    assert "queuedSince" not in world.status
    assert world.status["queuedSeconds"] == 0


def test_a_workload_stopped_by_its_queue_is_a_preemption() -> None:
    world = running(make_job(gangScheduling={"provider": "Kueue", "queue": "team"}))
    world.ask_to_leave("bach-0-0")
    world.pods["bach-0-0"]["status"]["conditions"] = [{"type": "TerminationTarget", "status": "True"}]
    world.settle()
    assert world.status["restarts"]["byClass"] == {"Preemption": 1}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"elastic": {"minNodes": 3, "maxNodes": 2}}, "spec.elastic.minNodes: is 3 but must not be more"),
        ({"numNodes": 5, "elastic": ELASTIC}, "spec.numNodes: is 5 but spec.elastic allows 1 to 4"),
        ({"elastic": ELASTIC, "gangScheduling": {"provider": "Volcano"}}, "spec.gangScheduling.provider"),
        ({"gangScheduling": {"provider": "Kueue"}}, "spec.gangScheduling.queue: must name a LocalQueue"),
        ({"gangScheduling": {"provider": "Slurm"}}, "spec.gangScheduling.provider"),
    ],
)
def test_incompatible_settings_are_refused(spec: Object, words: str) -> None:
    world = World(make_job(**spec))
    world.settle()
    assert world.condition("Failed") == ("True", "InvalidSpec")
    assert words in world.message("Failed")


# -------------------------------------------------------------------- elastic


def test_lost_capacity_that_does_not_return_shrinks_the_job_and_it_grows_back() -> None:
    world = running(elastic())
    assert (world.status["replicas"], environment(world, "bach-0-0")["AURL_NUM_NODES"]) == (2, "2")
    world.ask_to_leave("bach-0-1")
    forward(world, 1)
    assert workers(world) == ["bach-1-0", "bach-1-1"], "first all nodes are tried again"
    world.run("bach-1-0")
    forward(world, 58)
    assert workers(world) == ["bach-1-0", "bach-1-1"]
    forward(world, 3)
    assert workers(world) == ["bach-2-0"]
    assert environment(world, "bach-2-0")["AURL_NUM_NODES"] == "1"
    world.run("bach-2-0")
    world.settle()
    assert world.state == "Running"
    assert world.status["nodes"] == {"desired": 2, "ready": 1}
    assert (world.status["replicas"], world.status["elasticNodes"]) == (1, 1)
    assert world.status["restarts"]["total"] == 1, "only the lost pod counts"
    forward(world, 119)
    assert workers(world, "placeholder") == []
    forward(world, 2)
    assert workers(world, "placeholder") == ["bach-2-1"]
    assert violations(world.pods["bach-2-1"]) == ()
    forward(world, 5000)
    assert workers(world) == ["bach-2-0"], "it keeps training while there is no room"
    world.place(bach_2_1="node-2")
    forward(world, 1)
    assert workers(world) == ["bach-3-0", "bach-3-1"]
    assert workers(world, "placeholder") == []
    assert "elasticNodes" not in world.status
    assert world.status["restarts"]["total"] == 1
    assert world.events.count("Resized") == 2


def test_a_placeholder_pod_that_found_a_node_waits_a_moment_for_the_others() -> None:
    world = running(elastic(1))
    world.job["spec"]["numNodes"] = 3
    world.settle()
    assert workers(world, "placeholder") == ["bach-0-1", "bach-0-2"], "a raised numNodes is not delayed"
    world.place(bach_0_2="node-2")
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": world.now.isoformat()}
    world.pods["bach-0-2"]["status"]["conditions"] = [scheduled]
    forward(world, 9)
    assert workers(world) == ["bach-0-0"]
    forward(world, 2)
    assert workers(world) == ["bach-1-0", "bach-1-1"]
    assert world.status["elasticNodes"] == 2


def test_numnodes_may_change_within_the_bounds_while_the_job_runs() -> None:
    world = running(elastic(3))
    world.job["spec"]["numNodes"] = 1
    forward(world, 1)
    assert workers(world) == ["bach-1-0"]
    assert world.status["restarts"]["total"] == 0
    world.run("bach-1-0")
    world.settle()
    world.job["spec"]["numNodes"] = 5
    world.settle()
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert workers(world) == ["bach-1-0"]
    world.job["spec"]["numNodes"] = 2
    world.job["spec"]["elastic"] = {**ELASTIC, "maxNodes": 9}
    world.settle()
    assert world.condition("Stalled") == ("True", "ChangeRefused")
    assert "spec.elastic" in world.message("Stalled")


def test_a_job_of_fixed_size_cannot_be_scaled_while_it_runs() -> None:
    world = running()
    world.job["spec"]["numNodes"] = 3
    world.settle()
    assert world.condition("Stalled") == ("True", "ChangeRefused")
    assert workers(world) == ["bach-0-0", "bach-0-1"]


def test_a_gang_with_room_for_fewer_than_min_nodes_is_released() -> None:
    world = prepared(make_job(numNodes=4, elastic={**ELASTIC, "minNodes": 3}))
    world.run("bach-0-0", "bach-0-1")
    forward(world, 299)
    assert len(workers(world)) == 4
    forward(world, 2)
    assert workers(world) == []
    assert world.condition("Stalled") == ("True", "GangReleased")


def test_scaling_has_a_selector_that_finds_the_workers() -> None:
    world = running(elastic())
    wanted = dict(part.split("=") for part in world.status["selector"].split(","))
    found = [n for n, p in world.pods.items() if wanted.items() <= p["metadata"]["labels"].items()]
    assert len(found) == world.status["replicas"] == 2


def test_an_edit_in_the_middle_of_creation_never_mixes_sizes() -> None:
    world = prepared(elastic(3))
    del world.pods["bach-0-2"]
    del world.job["status"]
    world.job["spec"]["numNodes"] = 2
    world.step()
    sizes = {environment(world, name)["AURL_NUM_NODES"] for name in workers(world)}
    assert len(sizes) <= 1


def test_placeholder_pods_are_deleted_when_the_job_finishes() -> None:
    world = running(make_job(numNodes=1, elastic=ELASTIC, runPolicy={"cleanPodPolicy": "None"}))
    world.job["spec"]["numNodes"] = 2
    world.settle()
    assert workers(world, "placeholder") == ["bach-0-1"]
    world.run("bach-0-1")
    world.pods["bach-0-1"]["spec"].pop("nodeName")
    world.succeed("bach-0-0", TRAINED)
    world.settle()
    assert world.state == "Succeeded"
    assert workers(world, "placeholder") == []
