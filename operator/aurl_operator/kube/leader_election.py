"""Leader election through a Lease (coordination.k8s.io/v1), named as client-go's: only the leader may write.

The leader renews the Lease. Every write carries the resourceVersion that was read, so if two replicas try at
the same time, one gets a conflict. Clocks of different machines are never compared: a replica takes over
after it has observed the Lease unchanged for the holder's `leaseDurationSeconds` by its own clock, while
the leader stops acting after STOP_SHARE of them, counted from when its last successful renewal was sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from aurl_operator.core.parsers import dig, integer, text
from aurl_operator.kube.client import ApiError, Client

log = logging.getLogger(__name__)

#: Share of the lease's duration after which a leader that could not renew stops acting.
STOP_SHARE: Final = 0.7
#: Share of the lease's duration between two renewals.
RENEW_SHARE: Final = 0.2
#: Seconds between two reads by a replica that waits: how fast it notices that the Lease was released.
READ_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 0.5
_RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class LeaderElectionRecord:
    """The specification of a Lease, and the version of the object; `holder` is empty if nobody holds it."""

    holder: str
    seconds: int
    transitions: int
    acquire_time: str = ""
    renew_time: str = ""
    version: str = ""


class LeaseLock:
    """The Lease that replicas share, and this one's `identity`. Methods raise ApiError."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str, seconds: int) -> None:
        self._client, self._namespace, self.name = client, namespace, name
        self.identity, self.seconds = identity, seconds

    def __str__(self) -> str:
        return f"{self._namespace}/{self.name}"

    async def get(self) -> LeaderElectionRecord:
        """Read the Lease."""
        return self._record(await self._client.request("GET", "Lease", self._namespace, self.name))

    async def write(self, record: LeaderElectionRecord) -> LeaderElectionRecord:
        """Create the Lease, or replace the version in the record; 409 if another replica was faster."""
        method, name = ("PUT", self.name) if record.version else ("POST", "")
        metadata = {"name": self.name, "namespace": self._namespace}
        if record.version:
            metadata["resourceVersion"] = record.version
        spec: dict[str, Any] = {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.seconds,
            "leaseTransitions": record.transitions,
        }
        if record.acquire_time:
            spec["acquireTime"] = record.acquire_time
        if record.renew_time:
            spec["renewTime"] = record.renew_time
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        return self._record(await self._client.request(method, "Lease", self._namespace, name, body=body))

    def _record(self, lease: Mapping[str, Any]) -> LeaderElectionRecord:
        """Return the record of a Lease object; malformed fields count as unset."""
        spec = lease.get("spec")
        return LeaderElectionRecord(
            holder=text(dig(spec, "holderIdentity")),
            seconds=integer(dig(spec, "leaseDurationSeconds"), 1, 3600) or self.seconds,
            transitions=integer(dig(spec, "leaseTransitions")) or 0,
            acquire_time=text(dig(spec, "acquireTime")),
            renew_time=text(dig(spec, "renewTime")),
            version=text(dig(lease, "metadata", "resourceVersion")),
        )


def clock() -> float:
    """Return seconds of a clock that keeps running while the process, or the machine, is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LeaderElector:
    """Acquires and renews the Lease. `acquired` is set while this replica is the leader, `lost` while not.

    `last_error` is the latest error; empty if there was none.
    """

    def __init__(self, client: Client, lock: LeaseLock) -> None:
        self._client, self._lock = client, lock
        self._observed: LeaderElectionRecord | None = None
        self._observed_at = self._contact_at = clock()
        self._renewed_at = float("-inf")
        self._leading = False
        self.last_error = ""
        self._reported = ""
        self.acquired, self.lost = asyncio.Event(), asyncio.Event()
        self.lost.set()

    @property
    def leader(self) -> str:
        """Identity of the leader as last observed; empty for none."""
        return self._observed.holder if self._observed else ""

    def seconds_since_contact(self) -> float:
        """Seconds since the API server last answered about the Lease."""
        return clock() - self._contact_at

    def seconds_to_act(self) -> float:
        """Seconds for which this replica may still write; not positive if it must not."""
        return self._seconds_after(self._renewed_at) if self._leading else 0.0

    def _seconds_after(self, renewed_at: float) -> float:
        return renewed_at + STOP_SHARE * self._lock.seconds - clock()

    async def run(self) -> None:
        """Acquire the Lease, renew it, and acquire it again after a loss, forever."""
        await self._client.ready.wait()
        while True:
            await asyncio.sleep(await self._turn())

    async def _turn(self) -> float:
        """Try once to acquire or to renew; return the seconds until the next try."""
        # A hanging attempt must leave time for another one.
        timeout = RENEW_SHARE * self._lock.seconds
        if self._leading:
            timeout = min(timeout, max(self.seconds_to_act(), 0.0))
        try:
            async with asyncio.timeout(timeout):
                await (self._renew() if self._leading else self._try_acquire())
        except (ApiError, TimeoutError) as error:
            self.last_error = str(error) or "timed out"
            if isinstance(error, ApiError) and error.code in (401, 403, 422):
                self._report_once(error)
        else:
            return RENEW_SHARE * self._lock.seconds if self._leading else READ_SECONDS
        if self._leading and self.seconds_to_act() <= 0:
            self._lose("not renewed in time")
        return min(_RETRY_SECONDS, max(self.seconds_to_act(), 0.05)) if self._leading else _RETRY_SECONDS

    async def _try_acquire(self) -> None:
        """Read the Lease; take it if it is free or was not renewed in time."""
        try:
            record = await self._lock.get()
        except ApiError as error:
            if error.code != 404:
                raise
            self._contact_at, self._observed = clock(), None
            await self._renew()
            return
        self._observe(record)
        # Holding our own identity means that the answer to a renewal or acquisition was lost.
        free = record.holder in ("", self._lock.identity)
        if free or clock() - self._observed_at > record.seconds:
            await self._renew()

    async def _renew(self) -> None:
        """Write this replica's identity, for the first time or again. Raises ApiError."""
        sent_at = clock()
        record = self._own_record()
        try:
            record = await self._lock.write(record)
        except ApiError as error:
            if error.code != 409:
                raise
            self._observe(await self._lock.get())
            if self._leading and self.leader != self._lock.identity:
                self._lose(f"{self.leader or 'another replica'} took it")
            return
        self._observe(record)
        self._renewed_at = sent_at
        if not self._leading and self._seconds_after(sent_at) > 0:
            self._leading = True
            self.lost.clear()
            self.acquired.set()
            log.info("acquired leadership: holding lease %s as %s", self._lock.name, self._lock.identity)

    def _own_record(self) -> LeaderElectionRecord:
        """Return the record with which this replica acquires or renews the observed Lease."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        me, seconds, seen = self._lock.identity, self._lock.seconds, self._observed
        if seen is None:
            return LeaderElectionRecord(me, seconds, 0, acquire_time=now, renew_time=now)
        renewed = replace(seen, seconds=seconds, renew_time=now)
        if seen.holder == me and seen.acquire_time:
            return renewed
        return replace(
            renewed, holder=me, acquire_time=now, transitions=seen.transitions + (seen.holder != me)
        )

    def _observe(self, record: LeaderElectionRecord) -> None:
        self._contact_at = clock()
        if self._observed is None or record.version != self._observed.version:
            self._observed_at = self._contact_at
        self._observed = record

    def _lose(self, why: str) -> None:
        self._leading = False
        self.acquired.clear()
        self.lost.set()
        log.warning("lost leadership: lease %s: %s", self._lock.name, why)

    def _report_once(self, error: ApiError) -> None:
        """Log an error that will not pass by itself, once."""
        if str(error) != self._reported:
            self._reported = str(error)
            log.error("cannot use lease %s: %s", self._lock, error)

    async def release(self) -> None:
        """Release the Lease, so that another replica need not wait until it expires. Never fails.

        `run` must have been cancelled, or it would acquire the Lease again.
        """
        if not self._leading:
            return
        self._leading = False
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                # A renewal that was cut off may or may not have been written.
                record = await self._lock.get()
                self._observe(record)
                if record.holder == self._lock.identity:
                    free = replace(
                        record, holder="", seconds=self._lock.seconds, acquire_time="", renew_time=""
                    )
                    self._observe(await self._lock.write(free))
        except (ApiError, TimeoutError) as error:
            log.warning("lease %s not released, it will expire: %s", self._lock.name, error)
        else:
            log.info("lease %s released", self._lock.name)
        self.acquired.clear()
        self.lost.set()
