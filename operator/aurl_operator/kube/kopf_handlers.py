"""kopf's handlers: login, and the watch of jobs, which only updates the cache and enqueues the job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from aurl_operator.api.base import GROUP, PLURAL, VERSION
from aurl_operator.core.parsers import dig, text
from aurl_operator.kube.login import Login
from aurl_operator.kube.store import Cache
from aurl_operator.leadership import Leadership


def register(
    registry: kopf.OperatorRegistry,
    *,
    session: Login,
    cache: Cache,
    leadership: Leadership,
    heard: Callable[[str, str], None],
) -> None:
    """Register the handlers. They must not fail and must not wait: kopf would swallow or delay."""

    @kopf.on.login(registry=registry, retries=None, backoff=2)
    async def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.AiohttpSession:
        return await session.log_in(settings)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_job(event: kopf.RawEvent, **_: Any) -> None:
        job = dict(event["object"])
        heard(PLURAL, text(dig(job, "metadata", "namespace")))
        if event["type"] == "DELETED":
            key = cache.drop_job(job)
            leadership.forget(text(dig(job, "metadata", "uid")))
        else:
            key = cache.put_job(job)
        if key is not None:
            leadership.enqueue(key)
