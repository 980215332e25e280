"""The client of a Kubernetes API server that all tools and tests share."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from aurl_dev import kubeconfig as kubeconfigs
from aurl_dev.errors import ClusterError
from aurl_dev.waiting import wait_for

GROUP, VERSION, PLURAL = "aurl.ai", "v1alpha1", "aurltrainingjobs"
HTTP_PORT = 9402

Object = dict[str, Any]


class ApiError(ClusterError):
    """The API server refused a request, or was unreachable (code 0)."""

    def __init__(self, method: str, path: str, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{method} {path}: {code or 'unreachable'} {message}")


class Kube:
    """One cluster, reached through its kubeconfig. Objects are dicts with the API's own field names."""

    def __init__(self, kubeconfig: Path, retries: int = 0) -> None:
        """Read the kubeconfig; `retries` is how often a GET is repeated when unreachable or throttled."""
        self.kubeconfig, self._retries = kubeconfig, retries
        access = kubeconfigs.read(kubeconfig)
        self._server = access.server.rstrip("/")
        # Unlike requests, urllib3 takes no proxy from the environment: the cluster may be on this machine.
        self._pool = urllib3.PoolManager(
            ssl_context=access.tls, headers=access.headers, maxsize=8, retries=False
        )

    # ---------------------------------------------------------------- HTTP

    def request(self, method: str, path: str, body: Object | None = None, timeout: float = 10) -> Object:
        """Send one request and return the answer.

        Raises:
            ApiError: the answer was not a success, or there was none.
        """
        for attempt in range(self._retries + 1 if method == "GET" else 1):
            if attempt:
                time.sleep(0.5 * 2 ** (attempt - 1))
            try:
                answer = self._send(method, path, body, timeout=timeout)
            except urllib3.exceptions.HTTPError as error:
                failure = ApiError(method, path, 0, str(error))
                continue
            if answer.status < 300:
                return _decoded(answer.data)
            failure = ApiError(method, path, answer.status, _reason(answer.data))
            if answer.status != 429:
                break
        raise failure

    def get(self, path: str, **query: str) -> Object:
        """Return one object or list."""
        return self.request("GET", f"{path}?{urlencode(query)}" if query else path)

    def find(self, path: str, **query: str) -> Object | None:
        """Return one object or list, or None if it does not exist (404)."""
        try:
            return self.get(path, **query)
        except ApiError as error:
            if error.code != 404:
                raise
        return None

    def items(self, path: str, **query: str) -> list[Object]:
        """Return the objects of a list; a path that does not exist has none."""
        return list((self.find(path, **query) or {}).get("items", []))

    def status(self, path: str) -> int:
        """Return the HTTP status of a GET; 0 if the server is unreachable."""
        try:
            self.request("GET", path, timeout=5)
        except ApiError as error:
            return error.code
        return 200

    def create(self, path: str, body: Object) -> None:
        """Create an object unless it exists."""
        try:
            self.request("POST", path, body)
        except ApiError as error:
            if error.code != 409:
                raise

    def delete(self, path: str) -> None:
        """Delete an object unless it is gone."""
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.code != 404:
                raise

    def watch(self, path: str, version: str, seconds: int) -> Iterator[Object]:
        """Yield the events of a collection since a resource version, for at most `seconds`."""
        query = f"{path}?watch=1&resourceVersion={version}&timeoutSeconds={seconds}"
        try:
            answer = self._send("GET", query, None, timeout=seconds + 10.0, preload_content=False)
            try:
                if answer.status >= 300:
                    raise ApiError("GET", query, answer.status, _reason(answer.data))
                for line in answer:
                    yield dict(json.loads(line))
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ApiError("GET", query, 0, str(error)) from error

    def _send(
        self, method: str, path: str, body: Object | None, **options: Any
    ) -> urllib3.response.BaseHTTPResponse:
        headers = dict(self._pool.headers)
        headers["Content-Type"] = f"application/{'merge-patch+' if method == 'PATCH' else ''}json"
        data = None if body is None else json.dumps(body)
        return self._pool.request(method, self._server + path, body=data, headers=headers, **options)

    # ---------------------------------------------------------------- kubectl

    def kubectl(
        self, *args: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a user would; with `check`, a failure raises RuntimeError with kubectl's message."""
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.kubeconfig}", *args], input=stdin, capture_output=True, text=True
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def apply(self, namespace: str, document: Object, check: bool = True) -> str:
        """Apply one object with kubectl and return its output."""
        done = self.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(document), check=check)
        return done.stdout + done.stderr

    # ---------------------------------------------------------------- jobs

    def job(self, namespace: str, name: str) -> Object | None:
        """Return the AurlTrainingJob, or None."""
        return self.find(f"{jobs_path(namespace)}/{name}")

    def pods(self, namespace: str, job: str, role: str | None = None) -> list[Object]:
        """Return the job's pods, oldest first; with `role` only the `prepare` or `worker` ones."""
        selector = f"aurl.ai/job-name={job}" + (f",aurl.ai/role={role}" if role else "")
        found = self.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def progress(self, namespace: str, pod: str) -> Object | None:
        """Return the launcher's /progress, through the API server's proxy; None if it does not answer."""
        try:
            return self.find(f"/api/v1/namespaces/{namespace}/pods/{pod}:{HTTP_PORT}/proxy/progress")
        except ApiError:
            return None

    def events(self, namespace: str, name: str) -> list[Object]:
        """Return the events about the object called `name`."""
        return self.items(
            f"/api/v1/namespaces/{namespace}/events", fieldSelector=f"involvedObject.name={name}"
        )

    def ensure_namespace(self, name: str) -> None:
        """Create a namespace that can take pods: wait out one that is being deleted, and for its account."""
        path = f"/api/v1/namespaces/{name}"

        def usable() -> bool:
            found = self.find(path)
            if found is None:
                self.create("/api/v1/namespaces", {"metadata": {"name": name}})
            return found is not None and "deletionTimestamp" not in found["metadata"]

        wait_for(f"namespace {name} to be usable", usable, 120, every=0.25)
        wait_for(
            f"the default service account of namespace {name}",
            lambda: self.status(f"{path}/serviceaccounts/default") == 200,
        )

    def delete_job(self, namespace: str, name: str, seconds: float = 120) -> None:
        """Delete the job and wait until its pods are gone too."""
        self.delete(f"{jobs_path(namespace)}/{name}")
        wait_for(
            f"job {namespace}/{name} and its pods to be gone",
            lambda: self.job(namespace, name) is None and not self.pods(namespace, name),
            seconds,
            every=0.25,
        )


def _decoded(data: bytes) -> Object:
    try:
        return dict(json.loads(data))
    except ValueError:
        return {"text": data.decode(errors="replace")}  # /readyz answers in plain text


def _reason(data: bytes) -> str:
    """The message of a Status object, or the start of any other answer."""
    text = data.decode(errors="replace")
    try:
        return str(json.loads(text)["message"])[:1000]
    except (ValueError, TypeError, KeyError):
        return text[:500]


def jobs_path(namespace: str) -> str:
    """Return the path of the AurlTrainingJobs of a namespace."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"


def condition(job: Object | None, kind: str) -> Object:
    """Return the condition of that type, or an empty dict."""
    conditions = ((job or {}).get("status") or {}).get("conditions", [])
    return next((one for one in conditions if one.get("type") == kind), {})


def terminated(pod: Object) -> Object | None:
    """Return the `terminated` state of the pod's first container, or None while it runs."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    ended: Object | None = (statuses[0].get("state") or {}).get("terminated")
    return ended


def termination_message(pod: Object) -> Object:
    """Return the launcher's termination message; empty while there is none."""
    try:
        message: Object = json.loads((terminated(pod) or {}).get("message") or "{}")
    except ValueError:
        return {}
    return message
