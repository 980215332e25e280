"""The operator's view of the cluster: jobs and their objects, from watches and from answers to its writes."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aurl_operator.core.actions import Kind
from aurl_operator.core.names import Key, job_ref, owner_uid
from aurl_operator.core.observed import Children
from aurl_operator.core.parsers import dig, integer, text
from aurl_operator.core.podgroups import KINDS as POD_GROUPS
from aurl_operator.core.podview import PodView, pod_view
from aurl_operator.core.views import JobView, ObjectView, job_view, object_view

Object = dict[str, Any]
_TOMBSTONES = 20_000


@dataclass(frozen=True)
class _Child:
    """An object of a job: its metadata, and its view (None for a pod that cannot belong to a gang)."""

    kind: Kind
    raw: Object
    view: PodView | ObjectView | None


@dataclass
class Store:
    """Objects by UID. Older versions never replace newer ones, and deleted objects never come back."""

    _jobs: dict[Key, JobView] = field(default_factory=dict)
    _keys: dict[str, Key] = field(default_factory=dict)
    _children: dict[str, dict[str, _Child]] = field(default_factory=dict)
    _tombstones: OrderedDict[str, None] = field(default_factory=OrderedDict)

    # ---------------------------------------------------------------- jobs

    def job(self, key: Key) -> JobView | None:
        """Return the job of a key."""
        return self._jobs.get(key)

    def jobs(self) -> list[JobView]:
        """Return all jobs."""
        return list(self._jobs.values())

    def put_job(self, job: Mapping[str, Any]) -> Key | None:
        """Store a version of a job; its key if the version is new."""
        view = job_view(_trim(job))
        if view is None or view.ref.uid in self._tombstones:
            return None
        key = view.ref.key
        known = self._jobs.get(key)
        if known is not None and known.ref.uid != view.ref.uid:
            self.drop_job(known.raw)
        elif known is not None and not _newer(job, known.raw):
            return None
        self._jobs[key] = view
        self._keys[view.ref.uid] = key
        return key

    def drop_job(self, job: Mapping[str, Any]) -> Key | None:
        """Forget a deleted job and return its key. Its children stay until they are deleted as well."""
        ref = job_ref(job)
        if ref is None:
            return None
        self._bury(ref.uid)
        self._keys.pop(ref.uid, None)
        known = self._jobs.get(ref.key)
        if known is None or known.ref.uid != ref.uid:
            return None
        del self._jobs[ref.key]
        return ref.key

    # ---------------------------------------------------------------- children

    def children(self, uid: str) -> Children:
        """Return the objects that a job owns."""
        pods: list[PodView] = []
        others: dict[Kind, list[ObjectView]] = defaultdict(list)
        # A copy: the webhook reads in a thread of its own.
        for child in list(self._children.get(uid, {}).values()):
            if isinstance(child.view, PodView):
                pods.append(child.view)
            elif child.view is not None:
                others[child.kind].append(child.view)

        def first(kind: Kind) -> ObjectView | None:
            return next(iter(others[kind]), None)

        return Children(
            pods=tuple(pods),
            service=first("Service"),
            config_map=first("ConfigMap"),
            network_policy=first("NetworkPolicy"),
            pod_groups=tuple(group for kind in POD_GROUPS for group in others[kind]),
            claim=first("PersistentVolumeClaim"),
        )

    def config_map(self, uid: str) -> ObjectView | None:
        """Return the ConfigMap of a job."""
        return self.children(uid).config_map

    def all_children(self, kind: Kind) -> list[Object]:
        """Return the metadata of all objects of a kind."""
        return [
            child.raw for owned in self._children.values() for child in owned.values() if child.kind == kind
        ]

    def put_child(self, kind: Kind, obj: Mapping[str, Any]) -> Key | None:
        """Store a version of a child; the key of its job if the version is new and the job is known."""
        owner, uid = owner_uid(obj), text(dig(obj, "metadata", "uid"))
        if not owner or not uid or uid in self._tombstones:
            return None
        owned = self._children.setdefault(owner, {})
        known = owned.get(uid)
        if known is not None and not _newer(obj, known.raw):
            return None
        view = pod_view(obj) if kind == "Pod" else object_view(obj)
        owned[uid] = _Child(kind, {"metadata": _trim(obj)["metadata"]}, view)
        return self._keys.get(owner)

    def drop_child(self, obj: Mapping[str, Any]) -> Key | None:
        """Forget a deleted child; the key of its job."""
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


def _trim(obj: Mapping[str, Any]) -> Object:
    """Return a copy without the parts that the operator never reads."""
    kept = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    metadata = obj.get("metadata")
    if isinstance(metadata, Mapping):
        dropped = ("managedFields", "annotations", "labels")
        kept["metadata"] = {key: value for key, value in metadata.items() if key not in dropped}
    return kept


def version(obj: Mapping[str, Any]) -> int | None:
    """Return the resourceVersion as a number, or None if it is not one."""
    return integer(dig(obj, "metadata", "resourceVersion"))


def _newer(candidate: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """True if a version is newer, or if the two cannot be compared."""
    new, old = version(candidate), version(known)
    return new is None or old is None or new > old
