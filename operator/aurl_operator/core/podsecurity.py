"""Pod Security Standard "restricted", checked on a finished pod manifest.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted, including baseline).
Older API servers cannot enforce it, so the operator checks every pod before creating it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aurl_operator.core.parsers import dig, items, mapping

_VOLUME_KINDS: Final = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SECCOMP: Final = frozenset({"RuntimeDefault", "Localhost"})
_APPARMOR_PREFIX: Final = "container.apparmor.security.beta.kubernetes.io/"


def violations(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how a pod manifest violates the restricted standard; empty if it complies."""
    return (*_pod_violations(pod), *_container_violations(mapping(pod.get("spec"))))


def _pod_violations(pod: Mapping[str, Any]) -> Iterator[str]:
    spec = mapping(pod.get("spec"))
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"spec.{key} is set"
    for volume in items(spec.get("volumes")):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUME_KINDS:
            yield f"volume {volume.get('name')} is of kind {', '.join(sorted(kinds - _VOLUME_KINDS))}"
    context = mapping(spec.get("securityContext"))
    if context.get("sysctls"):
        yield "spec.securityContext.sysctls is set"
    if "windowsOptions" in context or "seLinuxOptions" in context:
        yield "spec.securityContext sets windowsOptions or seLinuxOptions"
    annotations = mapping(dig(pod, "metadata", "annotations"))
    for key, value in annotations.items():
        if (
            key.startswith(_APPARMOR_PREFIX)
            and value != "runtime/default"
            and not value.startswith("localhost/")
        ):
            yield f"annotation {key} is {value}"


def _container_violations(spec: Mapping[str, Any]) -> Iterator[str]:
    pod_context = mapping(spec.get("securityContext"))
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in items(spec.get(kind)):
            name = f"container {container.get('name')}"
            context = mapping(container.get("securityContext"))
            if context.get("privileged"):
                yield f"{name} is privileged"
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{name} allows privilege escalation"
            if "ALL" not in (dig(context, "capabilities", "drop") or []):
                yield f"{name} does not drop all capabilities"
            if set(dig(context, "capabilities", "add") or []) - {"NET_BIND_SERVICE"}:
                yield f"{name} adds capabilities"
            if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
                yield f"{name} may run as root"
            if context.get("runAsUser", pod_context.get("runAsUser")) == 0:
                yield f"{name} runs as user 0"
            seccomp = dig(context, "seccompProfile", "type") or dig(pod_context, "seccompProfile", "type")
            if seccomp not in _SECCOMP:
                yield f"{name} has no seccomp profile"
            if context.get("procMount", "Default") != "Default":
                yield f"{name} sets procMount"
            if any(port.get("hostPort") for port in items(container.get("ports"))):
                yield f"{name} uses a host port"
            probes = [container.get(p) for p in ("livenessProbe", "readinessProbe", "startupProbe")]
            if any(dig(probe, "httpGet", "host") for probe in probes):
                yield f"{name} probes another host"
