"""`spec` of an AurlTrainingJob: what a user asks for. Descriptions, defaults and bounds become the CRD."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from aurl_operator.api.base import PRESERVE_UNKNOWN, Model, Quantity

MANAGED_BY = "aurl.ai/operator"

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
VolumeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=50)]
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]


def _read_write_once() -> list[AccessMode]:
    return ["ReadWriteOnce"]


class Resources(Model):
    """CPU, memory and accelerators of one container."""

    requests: dict[str, Quantity] = Field(
        default_factory=dict,
        description="What the scheduler reserves, by resource name, e.g. {cpu: 500m, memory: 1Gi}.",
    )
    limits: dict[str, Quantity] = Field(
        default_factory=dict,
        description="What the pod may use at most, by resource name, e.g. {memory: 2Gi, nvidia.com/gpu: 1}.",
    )


class Toleration(Model):
    """A taint that the pods of the job accept."""

    key: str | None = Field(
        default=None, description="Taint key; none with operator Exists matches every key."
    )
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="How key and value are compared."
    )
    value: str | None = Field(default=None, description="Taint value; only with operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; none matches all effects."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        description="Seconds that a NoExecute taint is borne before the pod is evicted; none is for ever.",
    )


class LocalReference(Model):
    """A reference to an object in the job's own namespace."""

    name: ObjectName = Field(description="Name of the object, in the namespace of the job.")


class EnvVar(Model):
    """An additional environment variable of the trainer container."""

    name: EnvName = Field(
        description="Name of the variable; names that begin with AURL_ belong to the operator."
    )
    value: str = Field(default="", description="Value of the variable, taken literally.")


class EmptyDir(Model):
    """Scratch space that lives as long as the pod."""

    medium: Literal["", "Memory"] = Field(
        default="", description="Memory for a tmpfs (counts as memory), else the node's disk."
    )
    size_limit: Quantity | None = Field(default=None, description="Bytes at most, as a quantity.")


class ExtraVolume(Model):
    """An additional volume, mounted into the trainer container. Exactly one source must be given."""

    name: VolumeName = Field(description="Name of the volume, unique in the list.")
    mount_path: Annotated[str, StringConstraints(pattern=r"^/[^:]*$", max_length=1024)] = Field(
        description="Absolute path in the container, outside /etc/aurl, /mnt/aurl, /run/aurl, /tmp, /dev."
    )
    read_only: bool = Field(default=False, description="Mount read-only. A ConfigMap always is.")
    empty_dir: EmptyDir | None = Field(default=None, description="Scratch space.")
    config_map: LocalReference | None = Field(default=None, description="Keys of a ConfigMap as files.")
    persistent_volume_claim: LocalReference | None = Field(default=None, description="An existing claim.")


class PodTemplate(Model):
    """A narrow overlay over the generated pods. It places and labels them; it cannot give them privileges."""

    labels: dict[str, str] = Field(
        default_factory=dict, description="Additional labels; keys under aurl.ai/ belong to the operator."
    )
    annotations: dict[str, str] = Field(
        default_factory=dict,
        description="Additional annotations; keys under aurl.ai/ belong to the operator.",
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field(default_factory=list, description="Taints that the pods accept.")
    affinity: dict[str, Any] | None = Field(
        default=None,
        description="Node, pod and anti-pod affinity, as in a pod (core/v1 Affinity).",
        json_schema_extra=PRESERVE_UNKNOWN,
    )
    topology_spread_constraints: list[
        Annotated[dict[str, Any], Field(json_schema_extra=PRESERVE_UNKNOWN)]
    ] = Field(default_factory=list, description="How pods spread over zones and nodes, as in a pod.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: ObjectName | None = Field(
        default=None, description="RuntimeClass of the pods, e.g. nvidia."
    )
    scheduler_name: ObjectName | None = Field(
        default=None, description="Scheduler that places the pods; none is the default one."
    )
    image_pull_secrets: list[LocalReference] = Field(
        default_factory=list, description="Secrets with registry credentials, in the job's namespace."
    )
    env: list[EnvVar] = Field(default_factory=list, description="Additional environment variables.")
    volumes: list[ExtraVolume] = Field(
        default_factory=list, description="Additional volumes of the allowed kinds."
    )


class ClaimTemplate(Model):
    """A PersistentVolumeClaim that the operator makes for the job and that is deleted with it."""

    size: Quantity = Field(description="Size of the volume in bytes, as a quantity, e.g. 2Gi.")
    storage_class_name: ObjectName | None = Field(
        default=None, description="StorageClass; none is the cluster's default."
    )
    access_modes: list[AccessMode] = Field(
        default_factory=_read_write_once,
        min_length=1,
        description="Access modes. Pods on several machines need ReadWriteMany.",
    )


class Storage(Model):
    """Where dataset, checkpoints, TensorBoard files and samples live. Exactly one must be given."""

    claim_name: ObjectName | None = Field(
        default=None,
        description="An existing PersistentVolumeClaim in the job's namespace; it outlives the job.",
    )
    claim_template: ClaimTemplate | None = Field(
        default=None, description="Make a claim named <job>-data, owned by the job and deleted with it."
    )


class RestartLimits(Model):
    """How many restarts one class of failure gets; all but infrastructure consume backoffLimit as well."""

    out_of_memory: int | None = Field(
        default=None,
        ge=0,
        description="Gang restarts after running out of memory, each with a smaller micro-batch; none is as "
        "many as backoffLimit allows.",
    )
    divergence: int | None = Field(
        default=None,
        ge=0,
        description="Gang restarts after a training that diverged; none is as many as backoffLimit allows.",
    )
    hang: int | None = Field(
        default=None,
        ge=0,
        description="Gang restarts after a training that stood still; none: as many as backoffLimit allows.",
    )
    infrastructure: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Failures of nodes, volumes and network in a row, without a new checkpoint or ten "
        "minutes of training in between, that are borne. Preemption is borne without limit.",
    )


class NodeAvoidance(Model):
    """When a node that failed the job again and again is left alone by its next attempts."""

    after_failures: int = Field(
        default=3,
        ge=0,
        description="Failures on a node, within `seconds`, after which the pods avoid it; 0: never. Deleted "
        "and preempted pods do not speak against their node.",
    )
    seconds: int = Field(
        default=3600, ge=1, description="Seconds from its last failure after which a node is trusted again."
    )
    max_nodes: int = Field(
        default=3, ge=1, le=100, description="Nodes avoided at the same time; those that failed last win."
    )


class RunPolicy(Model):
    """How often the job is tried again, how long it may take, and what stays behind."""

    backoff_limit: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Gang restarts after failures of the training itself. A user error is never tried again; "
        "deleted, evicted, preempted and lost pods do not count.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Seconds from status.startTime after which the job fails. Stands still while suspended.",
    )
    startup_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Seconds that claim, image, quota and scheduling may keep a set of pods from running "
        "before the job fails; none waits for ever.",
    )
    hang_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Seconds without a new step, while all pods run, after which the stacks of all ranks are "
        "saved to <job>/stacks/ on the volume and the gang is started anew (class Hang, consumes "
        "backoffLimit). Must exceed the longest start, evaluation and checkpoint; "
        "none never does.",
    )
    straggler_factor: float = Field(
        default=1.5,
        ge=1.1,
        le=100,
        description="How many times as long as the median of its peers a rank must compute in a step to be "
        "marked in status.stragglers.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        description="Seconds from status.completionTime after which the job is deleted; none keeps it.",
    )
    clean_pod_policy: Literal["None", "Running", "All"] = Field(
        default="Running",
        description="Which pods are deleted when the job has finished: none, those still running, or all.",
    )
    termination_grace_period_seconds: int = Field(
        default=60,
        ge=1,
        le=86400,
        description="Seconds between SIGTERM and SIGKILL; must suffice to save a checkpoint.",
    )
    restart_limits: RestartLimits = Field(
        default_factory=RestartLimits, description="A budget for each class of failure."
    )
    node_avoidance: NodeAvoidance = Field(
        default_factory=NodeAvoidance, description="When the pods of the next attempt avoid a node."
    )


class GangScheduling(Model):
    """Who sees to it that all worker pods are placed or none is."""

    provider: Literal["Plain", "Volcano", "SchedulerPlugins", "Kueue"] = Field(
        default="Plain",
        description="Plain: the operator releases pods that are placed in part only. Volcano and "
        "SchedulerPlugins: a PodGroup per attempt and their scheduler. Kueue: plain pod groups.",
    )
    queue: ObjectName | None = Field(
        default=None, description="Queue of Volcano, or LocalQueue of Kueue in the job's namespace."
    )
    schedule_timeout_seconds: int = Field(
        default=300,
        ge=1,
        description="Seconds for which some worker pods may hold room while others find none; then all are "
        "released and tried again later (Plain, SchedulerPlugins).",
    )


class Elastic(Model):
    """Between which numbers of nodes the job may run, always with the same global batch."""

    min_nodes: int = Field(ge=1, le=1000, description="Nodes below which the job rather waits.")
    max_nodes: int = Field(ge=1, le=1000, description="Nodes up to which numNodes may be set while it runs.")
    shrink_after_seconds: int = Field(
        default=60,
        ge=1,
        description="Seconds that lost capacity may take to return before the job goes on with fewer nodes.",
    )
    grow_interval_seconds: int = Field(
        default=300,
        ge=0,
        description="Seconds that a job with fewer nodes trains before it asks for more again; each growth "
        "is a restart from the checkpoint that is saved for it.",
    )


class JobSpec(Model):
    """What to train, on how many nodes, with which volume and which policy."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        default=None, description="Trainer image; none is the one that the chart names (trainer.image)."
    )
    suspend: bool = Field(
        default=False,
        description="True stops the job: pods are deleted, training resumes from the last checkpoint later.",
    )
    managed_by: Annotated[str, StringConstraints(max_length=63)] = Field(
        default=MANAGED_BY,
        description="Which controller handles the job; with any other value this operator leaves it alone.",
    )
    num_nodes: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Worker pods. With `elastic`, it may change within its bounds while the job runs "
        "(also by kubectl scale).",
    )
    num_proc_per_node: int = Field(
        default=1, ge=1, le=64, description="Ranks (processes) in each worker pod."
    )
    resources_per_node: Resources = Field(
        default_factory=Resources, description="CPU, memory and accelerators of each worker pod."
    )
    elastic: Elastic | None = Field(
        default=None, description="Bounds of an elastic job; none is a fixed number of nodes."
    )
    gang_scheduling: GangScheduling = Field(
        default_factory=GangScheduling, description="How the worker pods are placed together."
    )
    pod_template: PodTemplate = Field(
        default_factory=PodTemplate, description="A narrow overlay over the generated pods."
    )
    storage: Storage = Field(description="The volume of the job.")
    dataset: dict[str, Any] = Field(
        description="Source, tokenizer and split of the music.", json_schema_extra=PRESERVE_UNKNOWN
    )
    training: dict[str, Any] = Field(
        description="Model, schedule and everything else of the training.", json_schema_extra=PRESERVE_UNKNOWN
    )
    run_policy: RunPolicy = Field(default_factory=RunPolicy, description="Retries, deadlines and clean-up.")
