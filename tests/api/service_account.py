"""A kubeconfig that holds only a token of a service account."""

from __future__ import annotations

import json
from pathlib import Path

from aurl_dev.kube import Kube


def write_kubeconfig(admin: Path, namespace: str, account: str, path: Path) -> Path:
    """Write a kubeconfig with exactly the rights of a service account, valid for an hour."""
    answer = Kube(admin).request(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
        {"spec": {"expirationSeconds": 3600}},
    )
    config = json.loads(admin.read_text())
    name = config["users"][0]["name"]
    config["users"] = [{"name": name, "user": {"token": answer["status"]["token"]}}]
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    return path
