"""The chart's CRD, without the CEL rules that Kubernetes 1.20 does not know."""

from __future__ import annotations

from typing import Any

import yaml

from aurl_dev.cluster.paths import CHART
from aurl_dev.kube import GROUP, PLURAL, VERSION, ApiError, Kube
from aurl_dev.waiting import wait_for
from aurl_operator.crd.resource import without_cel

FILE = CHART / "files/crd.yaml"
COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PATH = f"{COLLECTION}/{PLURAL}.{GROUP}"


def load() -> dict[str, Any]:
    """Return the CRD as an object."""
    crd: dict[str, Any] = yaml.safe_load(without_cel(FILE.read_text()))
    return crd


def create(kube: Kube, crd: dict[str, Any]) -> None:
    """Create the CRD and wait until its kind is served; an earlier one may still be terminating."""

    def created() -> bool:
        try:
            kube.request("POST", COLLECTION, crd)
        except ApiError as error:
            if error.code != 409:
                raise
            return False
        return True

    wait_for("the CRD to be created", created)
    wait_for("the kind to be served", lambda: kube.status(f"/apis/{GROUP}/{VERSION}/{PLURAL}") == 200)
