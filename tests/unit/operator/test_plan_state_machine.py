"""A random cluster drives plan(): its invariants hold whatever happens to pods, operator and clock."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aurl_operator.core.actions import Create
from unit.operator.builders import PREPARED, TRAINED, World, make_job, work_phase

FAILURES: list[tuple[int, dict[str, Any] | None]] = [
    (1, None),
    (137, None),
    (143, {"state": "Interrupted"}),
    (1, {"state": "Failed", "class": "Unknown"}),
    (3, {"state": "Failed", "class": "Divergence", "lastCheckpoint": {"step": 7}}),
    (137, {"state": "Failed", "class": "OutOfMemory"}),
    (124, {"state": "Failed", "class": "Hang"}),
    (1, {"state": "Failed", "class": "Hardware"}),
    (1, {"state": "Failed", "class": "Infrastructure"}),
    (1, {"state": "Failed", "class": "Infrastructure", "peerLost": True}),
]
SEVERE: tuple[int, dict[str, Any]] = (2, {"state": "Failed", "class": "UserError"})
QUIET_ROUNDS = 400


class Cluster(RuleBasedStateMachine):
    """The world between two calls of plan(). `crash` loses what the operator has not written."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.total = 0
        self.by_class: dict[str, int] = {}
        self.finished = ""
        self.deleted = False

    @initialize(
        nodes=st.integers(1, 3),
        limit=st.integers(0, 3),
        policy=st.sampled_from(["None", "Running", "All"]),
        stage=st.sampled_from(["new", "preparing", "starting", "running", "running", "running"]),
        elastic=st.booleans(),
        sidecars=st.booleans(),
    )
    def submit(self, nodes: int, limit: int, policy: str, stage: str, elastic: bool, sidecars: bool) -> None:
        """Submit a job and bring it to some stage of its life."""
        job = make_job(numNodes=nodes, runPolicy={"backoffLimit": limit, "cleanPodPolicy": policy})
        if elastic:
            job["spec"]["elastic"] = {"minNodes": 1, "maxNodes": 3, "growIntervalSeconds": 60}
        self.world = World(job)
        self.world.sidecars = sidecars
        if stage == "new":
            return
        self.world.settle()
        if stage == "preparing":
            return
        self.world.succeed("bach-prepare-0", PREPARED)
        self.world.settle()
        self.ending_pods_end()
        self.world.settle()
        if stage == "running":
            self.all_pods_run()
            self.world.settle()

    # ---------------------------------------------------------------- the operator

    def plan_and_act(self, stop_after: int | None = None, lose_status: bool = False) -> None:
        """One round; a crash stops after some actions, or before the status is written."""
        world = self.world
        decided = world.look()
        if self.deleted:
            assert decided.actions == ()
            assert decided.status is None
            return
        self.check_actions(decided.actions)
        written = decided.status is not None and not lose_status
        if decided.status_first and not written:
            return  # nothing is deleted before its trace is written
        failed = self.failed_members()
        before, made_from = world.status.get("restarts", {}).get("total", 0), world.status.get("specHash")
        for action in decided.actions[:stop_after]:
            world.carry_out(action)
        if written and decided.status is not None and (decided.status_first or stop_after is None):
            dumped = decided.status.model_dump(mode="json", by_alias=True, exclude_none=True)
            world.job["status"] = dumped
        # Failures of pods that were made from another spec do not count.
        if failed - set(world.pods) and made_from in (None, world.status.get("specHash")):
            now = world.status["restarts"]["total"]
            assert now > before or world.status["state"] == "Failed", "a failure was not counted"

    def failed_members(self) -> set[str]:
        """Pods of the current attempt whose failure has not been counted yet."""
        world = self.world
        if self.finished or world.job["spec"].get("suspend"):
            return set()
        return {
            name
            for name, pod in world.pods.items()
            if work_phase(pod) == "Failed"
            and pod["metadata"]["labels"]["aurl.ai/role"] != "placeholder"
            and int(pod["metadata"]["labels"]["aurl.ai/attempt"]) >= world.status.get("attempt", 0)
            and not ("-prepare-" in name and world.status.get("dataset"))
        }

    def check_actions(self, actions: Any) -> None:
        """Check the invariants of a single round."""
        creates = [a for a in actions if isinstance(a, Create) and a.kind == "Pod"]
        if not creates:
            return
        assert not self.finished, "a finished job starts pods"
        attempts = {a.manifest["metadata"]["labels"]["aurl.ai/attempt"] for a in creates}
        assert len(attempts) == 1
        (attempt,) = attempts
        for name, pod in self.world.pods.items():
            labels = pod["metadata"]["labels"]
            over = pod["status"]["phase"] in ("Succeeded", "Failed")
            done = labels["aurl.ai/role"] == "prepare" and over and work_phase(pod) == "Succeeded"
            assert done or labels["aurl.ai/attempt"] == attempt, f"{name} of an older attempt still exists"
            assert "deletionTimestamp" not in pod["metadata"] or done, f"{name} is still ending"
        sizes = {
            pod["metadata"]["labels"]["aurl.ai/num-nodes"]
            for pod in [*self.world.pods.values(), *(a.manifest for a in creates)]
            if pod["metadata"]["labels"]["aurl.ai/attempt"] == attempt
            and pod["metadata"]["labels"]["aurl.ai/role"] == "worker"
        }
        assert len(sizes) <= 1, f"ranks of one attempt disagree about their number: {sizes}"
        taken = set(self.world.pods)
        names = [a.name for a in creates]
        assert len(set(names)) == len(names)
        assert not taken & set(names), "a pod is created twice"
        assert not self.world.job["spec"].get("suspend")

    @rule(rounds=st.integers(1, 4))
    def reconcile(self, rounds: int) -> None:
        for _ in range(rounds):
            self.plan_and_act()

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        """Most of a job's life."""
        self.plan_and_act()
        self.all_pods_run()
        self.plan_and_act()

    @rule(done=st.integers(0, 3))
    def crash_while_acting(self, done: int) -> None:
        self.plan_and_act(stop_after=done)

    @rule()
    def crash_before_the_status_is_written(self) -> None:
        self.plan_and_act(lose_status=True)

    # ---------------------------------------------------------------- the cluster

    def some_pod(self, data: Any, *phases: str) -> str | None:
        names = sorted(n for n, p in self.world.pods.items() if work_phase(p) in phases)
        return data.draw(st.sampled_from(names)) if names else None

    @rule(data=st.data())
    def a_pod_runs(self, data: Any) -> None:
        name = self.some_pod(data, "Pending")
        if name and "deletionTimestamp" not in self.world.pods[name]["metadata"]:
            self.world.run(name)

    @rule()
    def all_pods_run(self) -> None:
        for name, pod in self.world.pods.items():
            if pod["status"]["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]:
                self.world.run(name)

    @rule(data=st.data())
    def a_pod_finds_a_node(self, data: Any) -> None:
        name = self.some_pod(data, "Pending")
        if name:
            self.world.pods[name]["spec"].setdefault("nodeName", data.draw(st.sampled_from(["a", "b"])))

    @rule(data=st.data())
    def a_pod_succeeds(self, data: Any) -> None:
        name = self.some_pod(data, "Running")
        if name and self.world.pods[name]["metadata"]["labels"]["aurl.ai/role"] != "placeholder":
            self.world.succeed(name, PREPARED if "-prepare-" in name else TRAINED)

    @rule(data=st.data(), failure=st.sampled_from(FAILURES))
    def a_pod_fails(self, data: Any, failure: tuple[int, dict[str, Any] | None]) -> None:
        name = self.some_pod(data, "Running", "Pending")
        if name:
            self.world.fail(name, failure[0], failure[1])

    @rule(data=st.data())
    def a_user_error_shows(self, data: Any) -> None:
        name = self.some_pod(data, "Running")
        if name and data.draw(st.integers(0, 4)) == 0:
            self.world.fail(name, *SEVERE)

    @rule(data=st.data())
    def a_user_deletes_a_pod(self, data: Any) -> None:
        name = self.some_pod(data, "Pending", "Running", "Succeeded", "Failed")
        if name and "deletionTimestamp" not in self.world.pods[name]["metadata"]:
            self.world.ask_to_leave(name)

    @rule(data=st.data())
    def a_pod_vanishes(self, data: Any) -> None:
        name = self.some_pod(data, "Pending", "Running", "Succeeded", "Failed")
        if name:
            del self.world.pods[name]

    @rule(data=st.data(), phase=st.sampled_from(["Succeeded", "Failed"]))
    def a_sidecar_ends(self, data: Any, phase: str) -> None:
        """The sidecar of a pod whose trainer has terminated ends too; its failure fails the pod."""
        name = self.some_pod(data, "Succeeded", "Failed")
        if name and self.world.pods[name]["status"]["phase"] == "Running":
            status = self.world.pods[name]["status"]
            status["phase"] = "Failed" if work_phase(self.world.pods[name]) == "Failed" else phase
            status["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 143}}

    @rule()
    def ending_pods_end(self) -> None:
        pods = self.world.pods
        self.world.pods = {n: p for n, p in pods.items() if "deletionTimestamp" not in p["metadata"]}

    @rule()
    def the_service_vanishes(self) -> None:
        self.world.service = None

    @rule()
    def the_network_policy_vanishes(self) -> None:
        self.world.network_policy = None

    @rule()
    def the_config_map_vanishes(self) -> None:
        self.world.config_map = None

    @invariant()
    def an_elastic_job_keeps_within_its_bounds(self) -> None:
        if "elastic" in self.world.job["spec"]:
            assert self.world.status.get("replicas", 0) <= 3
            assert 1 <= self.world.status.get("elasticNodes", 1) <= 3

    @rule(seconds=st.sampled_from([1, 5, 30, 400, 4000, -20]))
    def the_clock_jumps(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule(rounds=st.integers(0, 2), resume=st.booleans())
    def the_user_suspends(self, rounds: int, resume: bool) -> None:
        for suspend in (True, False) if resume else (True,):
            self.world.job["spec"]["suspend"] = suspend
            self.world.job["metadata"]["generation"] += 1
            for _ in range(rounds):
                self.plan_and_act()

    @rule()
    def the_user_resumes(self) -> None:
        self.world.job["spec"]["suspend"] = False

    @rule(nodes=st.integers(1, 3))
    def the_user_edits(self, nodes: int) -> None:
        self.world.job["spec"]["numNodes"] = nodes
        self.world.job["metadata"]["generation"] += 1

    @precondition(lambda self: not self.deleted)
    @rule(really=st.integers(0, 19))
    def the_user_deletes(self, really: int) -> None:
        if really == 19:
            self.world.job["metadata"]["deletionTimestamp"] = "2026-01-01T13:00:00Z"
            self.deleted = True

    # ---------------------------------------------------------------- invariants

    @invariant()
    def counts_never_go_down(self) -> None:
        restarts = self.world.status.get("restarts", {"total": 0, "byClass": {}})
        assert restarts["total"] >= self.total
        assert restarts["total"] == sum(restarts["byClass"].values())
        for name, count in self.by_class.items():
            assert restarts["byClass"].get(name, 0) >= count
        for name, count in restarts.get("forgiven", {}).items():
            assert 0 <= count <= restarts["byClass"][name]
        self.total, self.by_class = restarts["total"], dict(restarts["byClass"])

    @invariant()
    def the_last_failure_is_the_first_of_at_most_ten(self) -> None:
        failures = self.world.status.get("failures", [])
        assert len(failures) <= 10
        assert failures[:1] == [each for each in [self.world.status.get("lastFailure")] if each]

    @invariant()
    def the_end_is_the_end(self) -> None:
        state = self.world.status.get("state", "")
        if self.finished:
            assert state == self.finished
        elif state in ("Succeeded", "Failed"):
            self.finished = state

    @invariant()
    def conditions_are_sound(self) -> None:
        conditions = self.world.status.get("conditions")
        if conditions is None:
            return
        types = [c["type"] for c in conditions]
        assert len(types) == len(set(types)) == 7
        holds = {c["type"] for c in conditions if c["status"] == "True"}
        assert not {"Succeeded", "Failed"} <= holds
        assert len(holds & {"Running", "Suspended", "Succeeded", "Failed"}) <= 1
        assert all(c["reason"] and c["message"] and c["lastTransitionTime"] for c in conditions)

    def teardown(self) -> None:
        """Once the cluster behaves again the job finishes, and nothing is created after its deletion."""
        if self.deleted:
            self.plan_and_act()
            return
        world = self.world
        world.job["spec"]["suspend"] = False
        for _ in range(QUIET_ROUNDS):
            before = (copy.deepcopy(world.job.get("status")), set(world.pods))
            self.plan_and_act()
            self.counts_never_go_down()
            self.the_end_is_the_end()
            if self.finished:
                break
            self.behave()
            if before == (world.job.get("status"), set(world.pods)):
                wake = world.look().requeue_after
                world.now += timedelta(seconds=wake if wake is not None else 1)
        assert self.finished, f"never finishes: {world.status}"
        for _ in range(3):
            self.plan_and_act()
        assert world.service is None
        for name, pod in world.pods.items():
            kept = "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"
            assert not kept or work_phase(pod) == "Running", f"only its sidecar keeps {name} running"
        if world.job["spec"]["runPolicy"]["cleanPodPolicy"] == "All":
            left = [n for n, p in world.pods.items() if "deletionTimestamp" not in p["metadata"]]
            assert left == []

    def behave(self) -> None:
        """Pods start, run and succeed; those being deleted go away."""
        world = self.world
        self.ending_pods_end()
        for name, pod in world.pods.items():
            if pod["status"]["phase"] == "Pending":
                world.run(name)
            elif work_phase(pod) == "Running" and pod["metadata"]["labels"]["aurl.ai/role"] != "placeholder":
                world.succeed(name, PREPARED if "-prepare-" in name else TRAINED)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
