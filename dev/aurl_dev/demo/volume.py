"""Read a job's volume: run a small pod on its claim and take the answer from the pod's log.

This works with any storage, and needs only the rights of a job's author.
"""

from __future__ import annotations

from typing import Any

from aurl_dev.kube import Kube
from aurl_dev.waiting import wait_for

POD_DEADLINE_SECONDS = 180


class VolumePodFailed(RuntimeError):
    """The pod failed; the message holds the tail of its log."""


def run_on_volume(
    kube: Kube,
    namespace: str,
    claim: str,
    image: str,
    command: list[str],
    name: str,
) -> str:
    """Run `command` in `image` with the claim mounted at /mnt/aurl, and return its standard output.

    Raises:
        VolumePodFailed: the command did not exit with 0.
    """
    kube.kubectl("-n", namespace, "delete", "pod", name, "--ignore-not-found", "--grace-period=0", "--force")
    kube.apply(namespace, _pod(name, claim, image, command))
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"

    def phase() -> str | None:
        found = (kube.find(path) or {}).get("status", {}).get("phase")
        return found if found in ("Succeeded", "Failed") else None

    final_phase = wait_for(f"pod {namespace}/{name} to end", phase, POD_DEADLINE_SECONDS, every=0.25)
    log = kube.kubectl("-n", namespace, "logs", name).stdout
    if final_phase != "Succeeded":
        raise VolumePodFailed(f"pod {namespace}/{name} failed: {log[-2000:]}")
    kube.kubectl("-n", namespace, "delete", "pod", name, "--grace-period=0", "--force")
    return log


def _pod(name: str, claim: str, image: str, command: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "volume",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": command,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "data", "mountPath": "/mnt/aurl"},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }
