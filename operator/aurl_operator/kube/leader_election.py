"""Elects one of several replicas through a Lease (coordination.k8s.io/v1); only the elected one may act.

The holder renews the Lease; every write carries the resourceVersion that was read, so of two replicas that
try at once one gets a conflict. Clocks of different machines are never compared: a replica takes over after
it has seen the Lease unchanged for the holder's whole term by its own clock, while the holder stops by itself
after STOP_SHARE of the term, counted from before its last successful renewal was sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aurl_operator.core.parsers import dig, integer, text
from aurl_operator.kube.client import ApiError, Client, Unreachable

log = logging.getLogger(__name__)

#: Share of the term after which a holder that could not renew no longer acts.
STOP_SHARE: Final = 0.7
#: Share of the term between two renewals.
RENEW_SHARE: Final = 0.2
#: Seconds between two looks of a replica that waits: how fast it notices that the Lease was released.
LOOK_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 0.5
_RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class LeaseName:
    """Which Lease, under which name this replica holds it, and for how many seconds."""

    namespace: str
    name: str
    identity: str
    seconds: int


@dataclass(frozen=True)
class Record:
    """What a Lease object says. `holder` is empty where nobody holds it; `seconds` is the holder's term."""

    version: str
    holder: str
    seconds: int
    transitions: int


def read_record(obj: Mapping[str, Any], default_seconds: int) -> Record:
    """The record of a Lease object; what is malformed reads as not said."""
    spec = obj.get("spec")
    return Record(
        version=text(dig(obj, "metadata", "resourceVersion")),
        holder=text(dig(spec, "holderIdentity")),
        seconds=integer(dig(spec, "leaseDurationSeconds"), 1, 3600) or default_seconds,
        transitions=integer(dig(spec, "leaseTransitions")) or 0,
    )


def write_spec(name: LeaseName, before: Record | None, now: datetime) -> dict[str, Any]:
    """The specification by which this replica takes, or goes on holding, a Lease."""
    moment = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    renewed = before is not None and before.holder == name.identity
    transitions = before.transitions + (0 if renewed else 1) if before else 0
    spec: dict[str, Any] = {
        "holderIdentity": name.identity,
        "leaseDurationSeconds": name.seconds,
        "renewTime": moment,
        "leaseTransitions": transitions,
    }
    return spec if renewed else {**spec, "acquireTime": moment}


def clock() -> float:
    """Seconds that go on while the process, or the machine, is stopped."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Election:
    """Takes and renews the Lease. `leading` is set while this replica holds it, `lost` while it does not.

    `problem` is what went wrong last, if anything did.
    """

    def __init__(self, client: Client, name: LeaseName) -> None:
        self._client, self._name = client, name
        self._record: Record | None = None
        self._seen = self._heard = clock()
        self._renewed = float("-inf")
        self._acquire_time: str | None = None
        self._holding = False
        self.problem = ""
        self._complained = ""
        self.leading, self.lost = asyncio.Event(), asyncio.Event()
        self.lost.set()

    @property
    def holder(self) -> str:
        """Who holds the Lease, as far as this replica knows; empty for nobody."""
        return self._record.holder if self._record else ""

    @property
    def deaf_seconds(self) -> float:
        """Seconds since the API server last told how the Lease stands."""
        return clock() - self._heard

    def seconds_left(self) -> float:
        """Seconds for which this replica may still act; not positive where it must not."""
        if not self._holding:
            return 0.0
        return self._left_after(self._renewed)

    def _left_after(self, renewed: float) -> float:
        return renewed + STOP_SHARE * self._name.seconds - clock()

    async def run(self) -> None:
        """Stand for election, and hold the Lease once it is won, for ever."""
        await self._client.ready.wait()
        while True:
            await asyncio.sleep(await self._turn())

    async def _turn(self) -> float:
        """One look or renewal; seconds until the next one."""
        # One attempt that hangs must leave time for another.
        patience = RENEW_SHARE * self._name.seconds
        if self._holding:
            patience = min(patience, max(self.seconds_left(), 0.0))
        try:
            async with asyncio.timeout(patience):
                await (self._take() if self._holding else self._look())
        except (ApiError, Unreachable, TimeoutError) as error:
            self.problem = str(error) or "no answer in time"
            if isinstance(error, ApiError) and error.code in (401, 403, 422):
                self._complain(error)
        else:
            return RENEW_SHARE * self._name.seconds if self._holding else LOOK_SECONDS
        if self._holding and self.seconds_left() <= 0:
            self._lose("it could not be renewed in time")
        return min(_RETRY_SECONDS, max(self.seconds_left(), 0.05)) if self._holding else _RETRY_SECONDS

    async def _look(self) -> None:
        """Read the Lease; take it if nobody holds it any more."""
        try:
            answer = await self._request("GET", self._name.name)
        except ApiError as error:
            if error.code != 404:
                raise
            self._heard, self._record = clock(), None
            await self._take()
            return
        self._note(answer)
        found = self._record
        assert found is not None
        # Its own name: a renewal or a first take whose answer was lost.
        free = found.holder in ("", self._name.identity) or clock() - self._seen > found.seconds
        if free:
            await self._take()

    async def _take(self) -> None:
        """Write this replica's name, for the first time or again. Raises ApiError and Unreachable."""
        before, sent = self._record, clock()
        spec = write_spec(self._name, before, datetime.now(UTC))
        if self._acquire_time is not None and "acquireTime" not in spec:
            spec["acquireTime"] = self._acquire_time
        try:
            answer = await self._write(spec, before)
        except ApiError as error:
            if error.code == 409:
                await self._read_after_conflict()
                return
            raise
        self._note(answer)
        self._acquire_time = text(dig(answer, "spec", "acquireTime")) or None
        self._renewed = sent
        if not self._holding and self._left_after(sent) > 0:
            self._holding = True
            self.lost.clear()
            self.leading.set()
            log.info("leads: the lease %s is held as %s", self._name.name, self._name.identity)

    async def _read_after_conflict(self) -> None:
        self._note(await self._request("GET", self._name.name))
        if self._holding and self.holder != self._name.identity:
            self._lose(f"{self.holder or 'somebody'} took it")

    async def _write(self, spec: Mapping[str, Any], before: Record | None) -> dict[str, Any]:
        metadata = {"name": self._name.name, "namespace": self._name.namespace}
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
        if before is None:
            return await self._request("POST", "", body)
        metadata["resourceVersion"] = before.version
        return await self._request("PUT", self._name.name, body)

    async def _request(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._client.request(method, "Lease", self._name.namespace, name, body=body)

    def _note(self, answer: Mapping[str, Any]) -> None:
        now, found = clock(), read_record(answer, self._name.seconds)
        self._heard = now
        if self._record is None or found.version != self._record.version:
            self._seen = now
        self._record = found

    def _lose(self, why: str) -> None:
        if not self._holding:
            return
        self._holding = False
        self._acquire_time = None
        self.leading.clear()
        self.lost.set()
        log.warning("no longer leads, the lease %s is lost: %s", self._name.name, why)

    def _complain(self, error: ApiError) -> None:
        """Tell once what will not pass by itself."""
        if str(error) != self._complained:
            self._complained = str(error)
            log.error("the lease %s/%s cannot be used: %s", self._name.namespace, self._name.name, error)

    async def release(self) -> None:
        """Give the Lease up, so that another replica need not wait for its end. Never fails.

        `run` must have been cancelled, or it would take the Lease again.
        """
        if not self._holding or self._record is None:
            return
        self._holding = False
        spec = {
            "holderIdentity": "",
            "leaseDurationSeconds": self._name.seconds,
            "leaseTransitions": self._record.transitions,
        }
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                # Of a renewal that was cut off it is not known whether it was written.
                self._note(await self._request("GET", self._name.name))
                if self.holder == self._name.identity:
                    await self._write(spec, self._record)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.warning("lease %s not released, it will run out: %s", self._name.name, error)
        else:
            log.info("lease %s released", self._name.name)
        self.leading.clear()
        self.lost.set()
