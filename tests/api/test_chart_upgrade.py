"""A release on a real API server, upgraded from the previous chart, rolled back and removed, while jobs run.

The previous chart is kept as it was packaged. The operator is a real process with exactly the rights of the
release's service account; the test restarts it, as the kubelet would.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.api_harness import TRAINED, JobNamespace
from api.service_account import write_kubeconfig
from aurl_dev import crd
from aurl_dev.cluster import helm
from aurl_dev.cluster.api_server import ApiServer
from aurl_dev.cluster.paths import CHART
from aurl_dev.kube import Kube, Object
from aurl_dev.operator_process import OperatorProcess
from aurl_dev.waiting import wait_for

pytestmark = pytest.mark.api

PREVIOUS = Path(__file__).parent / "charts/aurl-operator-0.1.0.tgz"
CURRENT_VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
RELEASE, NAMESPACE, TENANT = "aurl", "upgrade-system", "upgrade-jobs"
NAME = "aurl-aurl-operator"
# No kubelet runs the Deployment's pods.
HELD: helm.Values = {"replicaCount": 0}


@pytest.fixture
def ns(api_server: ApiServer) -> Iterator[JobNamespace]:
    """A tenant on a server without the CRD, which the release installs."""
    api = Kube(api_server.kubeconfig)
    # The CRD of another module may still be terminating.
    wait_for("the CRD to be gone", lambda: api.status(crd.PATH) == 404)
    for name in (NAMESPACE, TENANT):
        api.ensure_namespace(name)
    yield JobNamespace(api, TENANT)
    helm.uninstall(api_server.kubeconfig, RELEASE, NAMESPACE)
    api.delete(crd.PATH)
    for name in (NAMESPACE, TENANT):
        api.delete(f"/api/v1/namespaces/{name}")


def deployed(api: Kube) -> tuple[Any, Any]:
    """Return what a new version changes: the specs of the Deployment and of the CRD."""
    deployment = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
    return deployment["spec"], api.get(crd.PATH)["spec"]


def chart_of(api: Kube) -> set[str]:
    """Return the chart labels of Deployment and CRD."""
    paths = (f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}", crd.PATH)
    return {api.get(path)["metadata"]["labels"]["helm.sh/chart"] for path in paths}


def undisturbed(ns: JobNamespace) -> Object:
    """Return what an upgrade must not change: pods (to the last write), claims, the jobs themselves."""
    pods = {
        pod["metadata"]["name"]: (pod["metadata"]["uid"], pod["metadata"]["resourceVersion"])
        for pod in ns.objects("pods")
    }
    claims = {
        claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in ns.objects("persistentvolumeclaims")
    }
    jobs = {}
    for name in ("busy", "done", "preparing"):
        job = ns.job(name)
        status = job["status"]
        kept = {key: status.get(key) for key in ("state", "attempt", "restarts", "startTime", "dataset")}
        jobs[name] = (job["metadata"]["uid"], job["metadata"]["generation"], job["spec"], kept)
    return {"pods": pods, "claims": claims, "jobs": jobs}


def test_upgrade_rollback_and_reinstall_do_not_affect_jobs(
    ns: JobNamespace, api_server: ApiServer, tmp_path: Path
) -> None:
    kubeconfig = api_server.kubeconfig
    helm.install(kubeconfig, RELEASE, PREVIOUS, NAMESPACE, HELD)
    assert chart_of(ns.api) == {"aurl-operator-0.1.0"}
    before = deployed(ns.api)
    rights = write_kubeconfig(kubeconfig, NAMESPACE, NAME, tmp_path / "kubeconfig")
    with OperatorProcess(rights, tmp_path / "log", "--lease", f"{NAMESPACE}/{NAME}") as operator:
        ns.create_job("busy")
        ns.prepare("busy")
        ns.train("busy")
        ns.create_job("done", numNodes=1)
        ns.prepare("done")
        ns.train("done", nodes=1)
        ns.succeed("done-0-0", TRAINED)
        ns.state("done", "Succeeded")
        ns.create_job("preparing", numNodes=1)
        ns.wait_pods("preparing", "preparing-prepare-0")
        ns.run("preparing-prepare-0")
        ns.state("preparing", "Preparing")
        held = undisturbed(ns)
        assert len(held["pods"]) == 6

        def goes_on(job: str) -> None:
            """Restart the operator, as the Deployment would; it finds everything unchanged and works."""
            assert operator.stop() == 0
            operator.start()
            wait_for("the new operator to lead", operator.is_leader)
            ns.create_job(job, numNodes=1)
            ns.prepare(job)
            ns.train(job, nodes=1)
            ns.delete_job(job)
            wait_for("the job's pods to go", lambda: ns.pods(job) == {})
            assert undisturbed(ns) == held
            assert operator.metric("aurl_operator_reconciles_total", result="error") == 0

        # Upgrade: Deployment and CRD change under a running operator.
        helm.install(kubeconfig, RELEASE, CHART, NAMESPACE, HELD)
        assert chart_of(ns.api) == {f"aurl-operator-{CURRENT_VERSION}"}
        after = deployed(ns.api)
        assert after[0] != before[0]
        assert after[1] != before[1]
        assert undisturbed(ns) == held
        goes_on("new")

        # Rollback: every field is what it was.
        helm.rollback(kubeconfig, RELEASE, NAMESPACE, revision=1)
        assert chart_of(ns.api) == {"aurl-operator-0.1.0"}
        assert deployed(ns.api) == before
        goes_on("old")

        # Uninstall: the operator's rights are gone; jobs, their pods and the CRD stay.
        assert operator.stop() == 0
        helm.uninstall(kubeconfig, RELEASE, NAMESPACE)
        assert ns.api.status(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}") == 404
        assert undisturbed(ns) == held

        # Reinstalled, it adopts the CRD and finishes the jobs.
        helm.install(kubeconfig, RELEASE, CHART, NAMESPACE, HELD)
        write_kubeconfig(kubeconfig, NAMESPACE, NAME, tmp_path / "kubeconfig")
        operator.start()
        wait_for("the operator to lead", operator.is_leader)
        assert undisturbed(ns) == held
        ns.succeed("busy-0-1", TRAINED)
        ns.succeed("busy-0-0", TRAINED)
        ns.state("busy", "Succeeded")
        assert ns.status("busy")["restarts"]["total"] == 0
