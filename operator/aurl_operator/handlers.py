"""kopf's handlers: login, and watches that only update the cache and enqueue the owner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import kopf

from aurl_operator.actions import Kind
from aurl_operator.api.base import GROUP, PLURAL, VERSION
from aurl_operator.cache import Cache
from aurl_operator.client import Client
from aurl_operator.leadership import Leadership
from aurl_operator.login import open_session
from aurl_operator.metrics import Metrics
from aurl_operator.names import LABEL_JOB_UID
from aurl_operator.queue import Key
from aurl_operator.reading import dig, text
from aurl_operator.watches import Watches

#: API group and plural name of the kinds that may belong to a job.
CHILDREN: Final[dict[Kind, tuple[str, str]]] = {
    "Pod": ("", "pods"),
    "Service": ("", "services"),
    "ConfigMap": ("", "configmaps"),
    "PersistentVolumeClaim": ("", "persistentvolumeclaims"),
    "NetworkPolicy": ("networking.k8s.io", "networkpolicies"),
}


def register(
    registry: kopf.OperatorRegistry,
    *,
    client: Client,
    cache: Cache,
    metrics: Metrics,
    leadership: Leadership,
    kinds: Iterable[Kind],
    watches: Watches,
) -> None:
    """Register the handlers. They must not fail and must not wait: kopf would swallow or delay."""

    @kopf.on.login(registry=registry, retries=None, backoff=2)
    async def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.AiohttpSession:
        return open_session(settings, client, metrics, watches)

    def heard(plural: str, obj: object) -> None:
        metrics.watch_last_event.labels(plural).set(time.time())
        watches.heard(plural, text(dig(obj, "metadata", "namespace")))

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_job(event: kopf.RawEvent, **_: Any) -> None:
        job = dict(event["object"])
        heard(PLURAL, job)
        if event["type"] == "DELETED":
            key = cache.drop_job(job)
            leadership.forget(text(dig(job, "metadata", "uid")))
        else:
            key = cache.put_job(job)
        if key is not None:
            leadership.enqueue(key)

    for kind in kinds:
        _register_child(registry, kind, cache, heard, leadership.enqueue)


def _register_child(
    registry: kopf.OperatorRegistry,
    kind: Kind,
    cache: Cache,
    heard: Callable[[str, object], None],
    enqueue: Callable[[Key], None],
) -> None:
    group, plural = CHILDREN[kind]

    @kopf.on.event(
        group, "v1", plural, registry=registry, labels={LABEL_JOB_UID: kopf.PRESENT}, id=f"on_{plural}"
    )
    async def on_child(event: kopf.RawEvent, **_: Any) -> None:
        obj = dict(event["object"])
        heard(plural, obj)
        key = cache.drop_child(obj) if event["type"] == "DELETED" else cache.put_child(kind, obj)
        if key is not None:
            enqueue(key)
