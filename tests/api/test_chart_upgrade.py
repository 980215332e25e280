"""A release on a real API server from the previous chart to this one, back and away, while jobs run.

The previous chart is kept as it was packaged. The operator is a real process with the rights that the release
gives to its service account and no others; the test plays the kubelet that would start it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.api_harness import TRAINED, Object, Playground, wait_for
from api.conftest import CRD_NAME, CRD_PATH
from api.service_account import write_kubeconfig
from aurl_dev.cluster import helm
from aurl_dev.cluster.api import Api
from aurl_dev.cluster.chart import CHART
from aurl_dev.cluster.control_plane import ApiServer
from aurl_dev.operator_process import OperatorProcess

pytestmark = pytest.mark.api

PREVIOUS = Path(__file__).parent / "charts/aurl-operator-0.1.0.tgz"
CURRENT_VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
RELEASE, NAMESPACE, TENANT = "aurl", "upgrade-system", "upgrade-jobs"
NAME = "aurl-aurl-operator"
# No kubelet runs the Deployment's pods here.
HELD: helm.Values = {"replicaCount": 0}


@pytest.fixture
def ground(api_server: ApiServer) -> Iterator[Playground]:
    """A tenant on a server that does not know the kind; the release is what brings it."""
    api = Api(api_server.kubeconfig)
    # Another module's definition may still be on its way out.
    wait_for("the definition to be gone", lambda: api.status(f"{CRD_PATH}/{CRD_NAME}") == 404)
    for name in (NAMESPACE, TENANT):
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_for("the default service account", lambda path=account: api.status(path) == 200)  # type: ignore[misc]
    yield Playground(api, TENANT)
    helm.uninstall(api_server.kubeconfig, RELEASE, NAMESPACE, wait_seconds=60)
    api.delete(f"{CRD_PATH}/{CRD_NAME}")
    for name in (NAMESPACE, TENANT):
        api.delete(f"/api/v1/namespaces/{name}")


def deployed(api: Api) -> tuple[Any, Any]:
    """What a new version changes: the specification of the Deployment, and that of the definition."""
    deployment = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
    return deployment["spec"], api.get(f"{CRD_PATH}/{CRD_NAME}")["spec"]


def chart_of(api: Api) -> set[str]:
    """The label of Deployment and definition that names the chart's version."""
    paths = (f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}", f"{CRD_PATH}/{CRD_NAME}")
    return {api.get(path)["metadata"]["labels"]["helm.sh/chart"] for path in paths}


def undisturbed(ground: Playground) -> Object:
    """All that an upgrade must not touch: pods to the last write, claims, what jobs are and have come to."""
    pods = {
        pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["metadata"]["resourceVersion"])
        for pod in ground.objects("pods")
    }
    claims = {
        claim["metadata"]["name"]: claim["metadata"]["uid"]
        for claim in ground.objects("persistentvolumeclaims")
    }
    jobs = {}
    for name in ("busy", "done", "preparing"):
        job = ground.job(name)
        status = job["status"]
        told = {key: status.get(key) for key in ("state", "attempt", "restarts", "startTime", "dataset")}
        jobs[name] = (job["metadata"]["uid"], job["metadata"]["generation"], job["spec"], told)
    return {"pods": pods, "claims": claims, "jobs": jobs}


def test_a_release_goes_through_its_versions_and_jobs_do_not_notice(
    ground: Playground, api_server: ApiServer, tmp_path: Path
) -> None:
    kubeconfig = api_server.kubeconfig
    helm.install(kubeconfig, RELEASE, PREVIOUS, NAMESPACE, HELD, wait_seconds=60)
    assert chart_of(ground.api) == {"aurl-operator-0.1.0"}
    before = deployed(ground.api)
    rights = write_kubeconfig(kubeconfig, NAMESPACE, NAME, tmp_path / "kubeconfig")
    with OperatorProcess(rights, tmp_path / "log", "--lease", f"{NAMESPACE}/{NAME}") as operator:
        ground.create_job("busy")
        ground.prepare("busy")
        ground.train("busy")
        ground.create_job("done", numNodes=1)
        ground.prepare("done")
        ground.train("done", nodes=1)
        ground.succeed("done-0-0", TRAINED)
        ground.state("done", "Succeeded")
        ground.create_job("preparing", numNodes=1)
        ground.wait_pods("preparing", "preparing-prepare-0")
        ground.run("preparing-prepare-0")
        ground.state("preparing", "Preparing")
        held = undisturbed(ground)
        assert len(held["pods"]) == 6

        def goes_on(job: str) -> None:
            """The operator starts anew, as the Deployment would have it; it finds all as it was and works."""
            assert operator.stop() == 0
            operator.start()
            wait_for("the new operator to lead", operator.leads)
            ground.create_job(job, numNodes=1)
            ground.prepare(job)
            ground.train(job, nodes=1)
            ground.delete_job(job)
            wait_for("the job's pods to go", lambda: ground.pods(job) == {})
            assert undisturbed(ground) == held
            assert operator.metric("aurl_operator_reconciles_total", result="error") == 0

        # Upgrade: another Deployment, another definition, under the feet of a running operator.
        helm.install(kubeconfig, RELEASE, CHART, NAMESPACE, HELD, wait_seconds=60)
        assert chart_of(ground.api) == {f"aurl-operator-{CURRENT_VERSION}"}
        after = deployed(ground.api)
        assert after[0] != before[0]
        assert after[1] != before[1]
        assert undisturbed(ground) == held
        goes_on("new")

        # Rollback: to the last field what it was.
        helm.rollback(kubeconfig, RELEASE, NAMESPACE, revision=1, wait_seconds=60)
        assert chart_of(ground.api) == {"aurl-operator-0.1.0"}
        assert deployed(ground.api) == before
        goes_on("old")

        # Gone, and with it the operator's rights; jobs, their pods and the definition stay.
        assert operator.stop() == 0
        helm.uninstall(kubeconfig, RELEASE, NAMESPACE, wait_seconds=60)
        assert ground.api.status(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}") == 404
        assert undisturbed(ground) == held

        # Installed anew, it takes the definition over and brings the jobs to their ends.
        helm.install(kubeconfig, RELEASE, CHART, NAMESPACE, HELD, wait_seconds=60)
        write_kubeconfig(kubeconfig, NAMESPACE, NAME, tmp_path / "kubeconfig")
        operator.start()
        wait_for("the operator to lead", operator.leads)
        assert undisturbed(ground) == held
        ground.succeed("busy-0-1", TRAINED)
        ground.succeed("busy-0-0", TRAINED)
        ground.state("busy", "Succeeded")
        assert ground.status("busy")["restarts"]["total"] == 0
