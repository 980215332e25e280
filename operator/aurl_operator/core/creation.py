"""Creates the pods of a round: missing members of the gang, and placeholder pods beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aurl_operator.api.spec import JobSpec
from aurl_operator.api.status import Launch, Role
from aurl_operator.core import badnodes, placement, podgroups, prerequisites
from aurl_operator.core.actions import Delete, Plan
from aurl_operator.core.budget import earliest_start
from aurl_operator.core.gang import Gang
from aurl_operator.core.objects import cluster_ip
from aurl_operator.core.parsers import dig, text
from aurl_operator.core.pods import Attempt, build_pod
from aurl_operator.core.podsecurity import violations
from aurl_operator.core.round import Round

#: Seconds after which a missing claim, which may be of any origin and is not watched, is looked for again.
CLAIM_RECHECK_SECONDS: Final = 5.0
_HTTP_INVALID: Final = 422


class Creation(Round):
    """A round that can create pods."""

    def fill(self, gang: Gang, spec: JobSpec) -> Plan | None:
        """Create the members that are missing, unless something must be waited for."""
        if placement.waiting(self.status, self.now)[0] is not None and not gang.members:
            return None
        earliest = earliest_start(self.status)
        if earliest is not None and earliest > self.now and not gang.members:
            self.wake((earliest - self.now).total_seconds())
            return None
        launch = self.status.launch
        if launch is None:
            launch = Launch(role=gang.role, start_time=self.now, avoided_nodes=self.avoided_nodes())
            self.update(launch=launch)
        named = prerequisites.named_claim_blocker(self.who, spec, self.children)
        self.block(named, CLAIM_RECHECK_SECONDS)
        own = prerequisites.own_claim_blocker(self.who, spec, self.children, self.status)
        if named or own or not prerequisites.ready(spec, self.children, self.options.network_policy):
            return None
        if not self._pod_group_ready(gang, spec):
            return None
        return self.create_pods(self.common(gang, spec, gang.role), gang.missing, spec)

    def create_pods(self, attempt: Attempt, indexes: Iterable[int], spec: JobSpec) -> Plan | None:
        """Create pods of a gang; a failed job where they can never be."""
        for index in indexes:
            pod = build_pod(self.who, spec, attempt, index)
            broken = violations(pod)
            if broken:
                message = f"The pods would break Pod Security 'restricted': {'; '.join(broken)}."
                return self.fail_user("PodNotRestricted", message)
            refusal = self.children.refusals.get(pod["metadata"]["name"])
            if refusal is not None and refusal.code == _HTTP_INVALID:
                message = f"The API server finds the pods invalid: {refusal.message.rstrip('. ')}."
                return self.fail_user("InvalidPod", message)
            self.create("Pod", pod)
        return None

    def common(self, gang: Gang, spec: JobSpec, role: Role) -> Attempt:
        """What the pods of the gang, or the placeholder pods beside it, have in common."""
        launch = self.status.launch
        return Attempt(
            role=role,
            number=gang.attempt,
            size=gang.size,
            image=spec.image or self.options.image,
            image_pull_policy=self.options.image_pull_policy,
            service_ip=cluster_ip(self.children.service),
            out_of_memory_restarts=self.status.restarts.by_class.get("OutOfMemory", 0),
            avoided_nodes=tuple(launch.avoided_nodes) if launch else (),
        )

    def avoided_nodes(self) -> list[str]:
        """Nodes that the pods of a new gang may not use."""
        return list(badnodes.avoided(self.status.node_failures, self.policy.node_avoidance, self.now))

    def _pod_group_ready(self, gang: Gang, spec: JobSpec) -> bool:
        """Whether the PodGroup that another scheduler wants exists, if it wants one; older ones go."""
        wanted = (
            podgroups.pod_group(self.who, spec, gang.attempt, gang.size) if gang.role == "worker" else None
        )
        if wanted is None:
            return True
        kind, manifest = wanted
        known = {text(dig(group, "metadata", "name")): group for group in self.children.pod_groups}
        group = known.pop(manifest["metadata"]["name"], None)
        for name, old in known.items():
            self.actions.append(Delete(kind, name, text(dig(old, "metadata", "uid"))))
        if group is None:
            self.create(kind, manifest)
        return group is not None
