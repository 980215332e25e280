"""Provision world-writable directories for claims of the local storage class, and delete them."""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from pathlib import Path

from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.cluster.processes import Processes
from aurl_dev.kube import ApiError, Kube, Object

DAEMON = "provisioner"
CLASS = "aurl-local"
PROVISIONER = "aurl.ai/local"
_CLAIMS = "/api/v1/persistentvolumeclaims"
_VOLUMES = "/api/v1/persistentvolumes"

STORAGE_CLASS: Object = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}


def start(processes: Processes, kubeconfig: Path, volumes: Path, cgroup: Path | None = None) -> None:
    """Start the provisioner as a daemon of a cluster, with its directories below `volumes`."""
    volumes.mkdir(parents=True, exist_ok=True)
    module = (sys.executable, "-m", "aurl_dev.cluster.provisioner")
    processes.start(
        DAEMON,
        [*module, "--kubeconfig", kubeconfig, "--root", volumes],
        env={"PYTHONPATH": str(CHECKOUT / "dev")},
        cgroup=cgroup,
    )


def wants_volume(claim: Object) -> bool:
    """Return whether a claim waits for this provisioner."""
    spec = claim["spec"]
    return (
        spec.get("storageClassName") == CLASS
        and not spec.get("volumeName")
        and not spec.get("selector")
        and claim["metadata"].get("deletionTimestamp") is None
        and claim.get("status", {}).get("phase", "Pending") == "Pending"
    )


def volume_for(claim: Object, root: Path) -> Object:
    """Return the PersistentVolume for a claim."""
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        # With the annotation the volume controller leaves the deletion to this provisioner.
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "hostPath": {"path": str(root / name), "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": CLASS,
            "volumeMode": spec.get("volumeMode", "Filesystem"),
        },
    }


def released(volume: Object) -> bool:
    """Return whether the claim of one of this provisioner's volumes is gone."""
    owner = (volume["metadata"].get("annotations") or {}).get("pv.kubernetes.io/provisioned-by")
    return owner == PROVISIONER and volume.get("status", {}).get("phase") in {"Released", "Failed"}


def reconcile(api: Kube, root: Path) -> None:
    """Create volumes for pending claims and delete released ones."""
    volumes = {volume["metadata"]["name"]: volume for volume in api.get(_VOLUMES)["items"]}
    for claim in filter(wants_volume, api.get(_CLAIMS)["items"]):
        volume = volume_for(claim, root)
        name = volume["metadata"]["name"]
        if name not in volumes:
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)  # hostPath volumes ignore fsGroup, and pods are not root
            api.create(_VOLUMES, volume)
            print(f"{claim['metadata']['namespace']}/{claim['metadata']['name']}: {folder}", flush=True)
    for name, volume in volumes.items():
        if released(volume):
            # Data first: while the volume object exists, an interrupted deletion is resumed.
            folder = root / name
            if folder.exists():
                shutil.rmtree(folder)
            api.delete(f"{_VOLUMES}/{name}")
            print(f"{name}: deleted", flush=True)


def _follow(api: Kube, path: str, changed: threading.Event) -> None:
    while True:
        try:
            version = api.get(f"{path}?limit=1")["metadata"]["resourceVersion"]
            changed.set()
            for _ in api.watch(path, version, 300):
                changed.set()
        except ApiError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(1)


def main() -> None:
    """Run until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    options = parser.parse_args()
    api, changed = Kube(options.kubeconfig), threading.Event()
    for path in (_CLAIMS, _VOLUMES):
        threading.Thread(target=_follow, args=(api, path, changed), daemon=True).start()
    while True:
        changed.wait(60)
        changed.clear()
        try:
            reconcile(api, options.root)
        except (ApiError, OSError) as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(1)
            changed.set()


if __name__ == "__main__":
    main()
