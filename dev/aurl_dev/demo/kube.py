"""The questions that the demo and the end-to-end tests ask of a cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
import requests
import urllib3

GROUP, VERSION, PLURAL = "aurl.ai", "v1alpha1", "aurltrainingjobs"
HTTP_PORT = 9402

Object = dict[str, Any]
T = TypeVar("T")


class DeadlineExceeded(AssertionError):
    """Something that was waited for did not come; the message says what was seen instead."""


def wait_for(what: str, seconds: float, look: Callable[[], T | None], every: float = 0.25) -> T:
    """Poll `look` until it returns something truthy.

    Raises:
        DeadlineExceeded: nothing came within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what}: not within {seconds:.0f} s; last seen: {found!r}")
        time.sleep(every)


@dataclass
class Kube:
    """One cluster, reached through its kubeconfig. Objects are dicts with the API's own names."""

    kubeconfig: Path
    host: str = field(init=False)
    session: requests.Session = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # The official client reads kubeconfigs of every kind; the few GETs below need no more of it.
        found = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config(str(self.kubeconfig), client_configuration=found)
        self.host = found.host
        self.session = requests.Session()
        self.session.trust_env = False  # REQUESTS_CA_BUNDLE would win over the cluster's own authority
        self.session.verify = found.ssl_ca_cert or found.verify_ssl
        if found.cert_file:
            self.session.cert = (found.cert_file, found.key_file)
        token = found.get_api_key_with_prefix("authorization")
        if token:
            self.session.headers["Authorization"] = token
        retries = urllib3.Retry(3, backoff_factor=0.5, status_forcelist=(429,))
        self.session.mount("https://", requests.adapters.HTTPAdapter(max_retries=retries))

    def kubectl(
        self, *args: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a user would; with `check`, a failure raises with what kubectl said."""
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.kubeconfig}", *args], input=stdin, capture_output=True, text=True
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def apply(self, namespace: str, document: Object, check: bool = True) -> str:
        """Apply one object with kubectl; what kubectl said."""
        done = self.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(document), check=check)
        return done.stdout + done.stderr

    def get(self, path: str, **query: str) -> Object | None:
        """GET a path of the API; None when it is not there (404)."""
        answer = self.session.get(f"{self.host}{path}", params=query, timeout=10)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        found: Object = answer.json()
        return found

    def items(self, path: str, **query: str) -> list[Object]:
        """The objects of a list path; an absent one has none."""
        return list((self.get(path, **query) or {}).get("items", []))

    def job(self, namespace: str, name: str) -> Object | None:
        """The AurlTrainingJob, or None."""
        return self.get(f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}")

    def pods(self, namespace: str, job: str, role: str | None = None) -> list[Object]:
        """The job's pods, oldest first; with `role` only the `prepare` or `worker` ones."""
        selector = f"aurl.ai/job-name={job}" + (f",aurl.ai/role={role}" if role else "")
        found = self.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def progress(self, namespace: str, pod: str) -> Object | None:
        """What the pod's launcher says at /progress (through the API server's proxy), None while silent."""
        try:
            return self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}:{HTTP_PORT}/proxy/progress")
        except (requests.RequestException, ValueError):
            return None

    def events(self, namespace: str, name: str) -> list[Object]:
        """The events about the object called `name`."""
        return self.items(
            f"/api/v1/namespaces/{namespace}/events", fieldSelector=f"involvedObject.name={name}"
        )

    def ensure_namespace(self, name: str) -> None:
        """Create the namespace where it is missing, and wait out one that is still being deleted."""

        def ready() -> bool:
            found = self.get(f"/api/v1/namespaces/{name}")
            if found is None:
                self.kubectl("create", "namespace", name)
                return True
            return "deletionTimestamp" not in found["metadata"]

        wait_for(f"namespace {name} to be usable", 120, ready)

    def delete_job(self, namespace: str, name: str, seconds: float = 120) -> None:
        """Delete the job and wait until its pods are gone too."""
        self.kubectl("-n", namespace, "delete", "aurltrainingjob", name, "--ignore-not-found", "--wait=false")
        wait_for(
            f"job {namespace}/{name} and its pods to be gone",
            seconds,
            lambda: self.job(namespace, name) is None and not self.pods(namespace, name),
        )


def condition(job: Object | None, kind: str) -> Object:
    """The condition of that type, or an empty dict."""
    found = [
        one for one in ((job or {}).get("status") or {}).get("conditions", []) if one.get("type") == kind
    ]
    return found[0] if found else {}


def terminated(pod: Object) -> Object | None:
    """The `terminated` state of the pod's first container, or None while it runs."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    ended: Object | None = (statuses[0].get("state") or {}).get("terminated")
    return ended


def last_words(pod: Object) -> Object:
    """The launcher's termination message as an object; empty while there is none."""
    try:
        message: Object = json.loads((terminated(pod) or {}).get("message") or "{}")
    except ValueError:
        return {}
    return message
