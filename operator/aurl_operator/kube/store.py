"""What the operator knows of the cluster: jobs and children, from watches and from answers to its writes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aurl_operator.core.actions import Kind
from aurl_operator.core.names import Key, job_ref, owner_uid
from aurl_operator.core.parsers import dig, integer, text

Object = dict[str, Any]
_TOMBSTONES = 20_000


@dataclass
class Cache:
    """Objects by UID. Older versions never replace newer ones, and deleted objects never come back."""

    _jobs: dict[Key, Object] = field(default_factory=dict)
    _keys: dict[str, Key] = field(default_factory=dict)
    _children: dict[str, dict[str, tuple[Kind, Object]]] = field(default_factory=dict)
    _tombstones: OrderedDict[str, None] = field(default_factory=OrderedDict)

    # ---------------------------------------------------------------- jobs

    def job(self, key: Key) -> Object | None:
        """The job of a key, or None."""
        return self._jobs.get(key)

    def jobs(self) -> Iterable[Object]:
        """All jobs."""
        return list(self._jobs.values())

    def put_job(self, job: Mapping[str, Any]) -> Key | None:
        """Take a version of a job; its key if that was news."""
        who = job_ref(job)
        if who is None or who.uid in self._tombstones:
            return None
        key = (who.namespace, who.name)
        known = self._jobs.get(key)
        if known is not None and dig(known, "metadata", "uid") == who.uid and not _newer(job, known):
            return None
        if known is not None and dig(known, "metadata", "uid") != who.uid:
            self.drop_job(known)
        self._jobs[key] = trim(job)
        self._keys[who.uid] = key
        return key

    def drop_job(self, job: Mapping[str, Any]) -> Key | None:
        """Forget a job that was deleted; its children stay until they are deleted too. Returns its key."""
        who = job_ref(job)
        if who is None:
            return None
        self._bury(who.uid)
        self._keys.pop(who.uid, None)
        key = (who.namespace, who.name)
        known = self._jobs.get(key)
        if known is None or dig(known, "metadata", "uid") != who.uid:
            return None
        del self._jobs[key]
        return key

    # ---------------------------------------------------------------- children

    def children(self, uid: str, kind: Kind) -> Iterator[Object]:
        """The objects of a kind that a job owns."""
        return (obj for found, obj in self._children.get(uid, {}).values() if found == kind)

    def config_map(self, uid: str) -> Object | None:
        """The ConfigMap of a job, or None."""
        return next(self.children(uid, "ConfigMap"), None)

    def all_children(self, kind: Kind) -> list[Object]:
        """All objects of a kind."""
        return [obj for owned in self._children.values() for found, obj in owned.values() if found == kind]

    def put_child(self, kind: Kind, obj: Mapping[str, Any]) -> Key | None:
        """Take a version of a child; the key of its job if that was news and the job is known."""
        owner, uid = owner_uid(obj), text(dig(obj, "metadata", "uid"))
        if not owner or not uid or uid in self._tombstones:
            return None
        owned = self._children.setdefault(owner, {})
        known = owned.get(uid)
        if known is not None and not _newer(obj, known[1]):
            return None
        owned[uid] = (kind, trim(obj))
        return self._keys.get(owner)

    def drop_child(self, obj: Mapping[str, Any]) -> Key | None:
        """Forget a child that was deleted; the key of its job."""
        owner, uid = owner_uid(obj), text(dig(obj, "metadata", "uid"))
        self._bury(uid)
        owned = self._children.get(owner)
        if owned is not None:
            owned.pop(uid, None)
            if not owned:
                del self._children[owner]
        return self._keys.get(owner)

    def _bury(self, uid: str) -> None:
        self._tombstones[uid] = None
        while len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)


def trim(obj: Mapping[str, Any]) -> Object:
    """A copy without what the operator never reads; of a pod's specification only its node is kept."""
    kept = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    dropped = ("managedFields", "annotations")
    kept["metadata"] = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in dropped}
    if dig(obj, "spec", "containers") is not None:
        kept["spec"] = {"nodeName": dig(obj, "spec", "nodeName")}
    return kept


def version(obj: Mapping[str, Any]) -> int | None:
    """The resourceVersion as a number, None where it is not one."""
    return integer(dig(obj, "metadata", "resourceVersion"))


def _newer(candidate: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a version is newer; versions that are no numbers (none are today) count as newer."""
    new, old = version(candidate), version(known)
    return new is None or old is None or new > old
