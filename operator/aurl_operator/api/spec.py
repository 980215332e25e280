"""`spec` of an AurlTrainingJob, written by the user. Descriptions, defaults and bounds go into the CRD."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, StringConstraints

from aurl_operator.api.base import PRESERVE_UNKNOWN, Model, Quantity

MANAGED_BY = "aurl.ai/operator"

EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
VolumeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=50)]
AnyObject = Annotated[dict[str, Any], Field(json_schema_extra={PRESERVE_UNKNOWN: True})]
PositiveSeconds = Annotated[int, Field(ge=1)]
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]


class Resources(Model):
    """CPU, memory and accelerators of one container."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    """Resources that the scheduler reserves, e.g. {cpu: 500m, memory: 1Gi}."""
    limits: dict[str, Quantity] = Field(default_factory=dict)
    """Upper limits, e.g. {memory: 2Gi, nvidia.com/gpu: 1}."""


class Toleration(Model):
    """A taint that the job's pods tolerate."""

    key: str | None = None
    """Taint key. Unset, with operator Exists: every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists: the key is enough. Equal: the value must match too."""
    value: str | None = None
    """Taint value, for operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect. Unset: all effects."""
    toleration_seconds: NonNegativeInt | None = None
    """Seconds to tolerate a NoExecute taint before the pod is evicted. Unset: forever."""


class LocalReference(Model):
    """A reference to an object in the job's namespace."""

    name: ObjectName
    """Name of the object in the job's namespace."""


class EnvVar(Model):
    """An extra environment variable of the trainer container."""

    name: EnvName
    """Name of the variable. The prefix AURL_ is reserved for the operator."""
    value: str = ""
    """Value of the variable."""


class EmptyDir(Model):
    """Scratch space with the lifetime of the pod."""

    medium: Literal["", "Memory"] = ""
    """Memory: a tmpfs, which counts against the memory limit. Empty: the node's disk."""
    size_limit: Quantity | None = None
    """Maximum size as a quantity, e.g. 1Gi."""


class ExtraVolume(Model):
    """An extra volume, mounted into the trainer container."""

    name: VolumeName
    """Name of the volume; must be unique in the list."""
    mount_path: Annotated[str, StringConstraints(pattern=r"^/[^:]*$", max_length=1024)]
    """Absolute path in the container, outside /etc/aurl, /mnt/aurl, /run/aurl, /tmp and /dev."""
    read_only: bool = False
    """Mount read-only. ConfigMaps always are."""
    empty_dir: EmptyDir | None = None
    """Scratch space."""
    config_map: LocalReference | None = None
    """A ConfigMap; its keys become files."""
    persistent_volume_claim: LocalReference | None = None
    """An existing PersistentVolumeClaim."""


class PodTemplate(Model):
    """A restricted overlay on the generated pods: placement and metadata, never extra privileges."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Extra labels. Keys under aurl.ai/ are reserved for the operator."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Extra annotations. Keys under aurl.ai/ are reserved for the operator."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have to run the pods."""
    tolerations: list[Toleration] = Field(default_factory=list)
    """Taints that the pods tolerate."""
    affinity: dict[str, Any] | None = Field(default=None, json_schema_extra={PRESERVE_UNKNOWN: True})
    """Node, pod and pod anti-affinity (core/v1 Affinity)."""
    topology_spread_constraints: list[AnyObject] = Field(default_factory=list)
    """Spread over zones and nodes (core/v1)."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods, e.g. nvidia."""
    scheduler_name: ObjectName | None = None
    """Scheduler of the pods. Unset: the gang scheduling provider's, or the cluster's default."""
    image_pull_secrets: list[LocalReference] = Field(default_factory=list)
    """Secrets with registry credentials, in the job's namespace."""
    env: list[EnvVar] = Field(default_factory=list)
    """Extra environment variables."""
    volumes: list[ExtraVolume] = Field(default_factory=list)
    """Extra volumes: emptyDir, ConfigMap or PersistentVolumeClaim."""


class ClaimTemplate(Model):
    """A PersistentVolumeClaim that the operator creates for the job and that is deleted with it."""

    size: Quantity = Field(description="Size of the volume as a quantity, e.g. 2Gi.")
    storage_class_name: ObjectName | None = None
    """StorageClass. Unset: the cluster's default."""
    access_modes: Annotated[list[AccessMode], Field(min_length=1)] | None = None
    """Access modes. Unset: ReadWriteOnce for one node, ReadWriteMany for several. With ReadWriteOnce, all
    pods run on one node of the cluster."""


class Storage(Model):
    """The volume for the dataset, checkpoints, TensorBoard files and samples."""

    claim_name: ObjectName | None = None
    """An existing PersistentVolumeClaim in the job's namespace. It outlives the job."""
    claim_template: ClaimTemplate | None = None
    """Create a claim named <job>-data, owned by the job and deleted with it (except by
    runPolicy.ttlSecondsAfterFinished, see cleanClaimPolicy)."""


class RestartLimits(Model):
    """Restart limits per failure class. All but infrastructure also count toward backoffLimit, and
    are renewed like it."""

    out_of_memory: NonNegativeInt | None = None
    """Gang restarts after running out of memory, each with a smaller micro-batch. Unset: only backoffLimit
    applies."""
    divergence: NonNegativeInt | None = None
    """Gang restarts after training diverged. Unset: only backoffLimit applies."""
    hang: NonNegativeInt | None = None
    """Gang restarts after training hung. Unset: only backoffLimit applies."""
    infrastructure: Annotated[int, Field(ge=0, le=1000)] = 20
    """Consecutive failures of nodes, GPUs, volumes and the network to tolerate. A new checkpoint or ten
    minutes of training resets the count. Preemptions are tolerated without limit."""


class NodeAvoidance(Model):
    """When the next attempts avoid a node on which the job has failed repeatedly."""

    after_failures: NonNegativeInt = 3
    """Failures on a node, each within `seconds` of the last, after which pods avoid it. One failure of class
    Hardware is enough; deleted and preempted pods do not count. 0: never avoid a node."""
    seconds: PositiveSeconds = 3600
    """Seconds after its last failure until a node is used again."""
    max_nodes: Annotated[int, Field(ge=1, le=100)] = 3
    """Maximum number of nodes to avoid at a time; the latest to fail win."""


class RunPolicy(Model):
    """Retries, deadlines and clean-up."""

    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 3
    """Gang restarts after failures of the training itself. An attempt that ran for an hour and saved a new
    checkpoint renews them. User errors are never retried; deleted, evicted, preempted and lost pods do not
    count."""
    active_deadline_seconds: PositiveSeconds | None = None
    """Seconds that the job may be active, over all attempts, before it fails. The clock stops in a queue and
    restarts when a suspended job resumes. Unset: no limit."""
    startup_deadline_seconds: PositiveSeconds | None = None
    """Seconds for the prepare pod, or for all worker pods, to start running (claim, image, quota, scheduling)
    before the job fails. Time in a queue does not count. Unset: no limit."""
    hang_deadline_seconds: PositiveSeconds | None = None
    """Seconds without a new step, while all pods run, after which the stacks of all ranks are saved to
    <job>/stacks/ on the volume and the gang is restarted (class Hang, counts toward backoffLimit). Must
    exceed the longest start-up, evaluation, sampling and checkpoint. Unset: never."""
    straggler_factor: Annotated[float, Field(ge=1.1, le=100)] = 1.5
    """A rank is listed in status.stragglers when its compute time per step reaches this multiple of the
    median of its peers."""
    ttl_seconds_after_finished: NonNegativeInt | None = None
    """Seconds after status.completionTime at which the job is deleted, but not its claim (see
    cleanClaimPolicy). Unset: never."""
    clean_pod_policy: Literal["None", "Running", "All"] = "Running"
    """Pods to delete once the job has finished: None, those still Running, or All. After a missed deadline,
    running pods are deleted even with None."""
    clean_claim_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to the claim of storage.claimTemplate, with the trained model, when
    ttlSecondsAfterFinished deletes the job: Retain or Delete."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86400)] = 60
    """Seconds between SIGTERM and SIGKILL; must be enough to save a checkpoint."""
    restart_limits: RestartLimits = Field(default_factory=RestartLimits)
    """Restart limits per failure class."""
    node_avoidance: NodeAvoidance = Field(default_factory=NodeAvoidance)
    """When the next attempts avoid a failing node."""


class GangScheduling(Model):
    """All-or-nothing placement of the worker pods."""

    provider: Literal["Plain", "Volcano", "SchedulerPlugins", "Kueue"] = "Plain"
    """Plain: the operator releases a gang that is only partly placed. Volcano and SchedulerPlugins: a
    PodGroup per attempt, placed by their scheduler. Kueue: a plain pod group."""
    queue: ObjectName | None = None
    """Volcano queue, or Kueue LocalQueue in the job's namespace."""
    schedule_timeout_seconds: PositiveSeconds = 300
    """Seconds that a partly placed gang may hold its nodes; then all worker pods are released and retried
    later (Plain, SchedulerPlugins)."""


class Elastic(Model):
    """Bounds of an elastic job. The global batch size stays the same at any number of nodes."""

    min_nodes: Annotated[int, Field(ge=1, le=1000)]
    """Minimum number of nodes; with fewer, the job waits."""
    max_nodes: Annotated[int, Field(ge=1, le=1000)]
    """Maximum for numNodes, which may change while the job runs."""
    shrink_after_seconds: PositiveSeconds = 60
    """Seconds to wait for lost capacity before the job continues with fewer nodes."""
    grow_interval_seconds: NonNegativeInt = 300
    """Seconds a shrunk job trains before it requests more nodes again. Each growth saves a checkpoint and
    restarts from it."""


class JobSpec(Model):
    """Desired state of the training job."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    """Trainer image. Default: the chart's `trainer.image`."""
    suspend: bool = False
    """True deletes the job's pods; false resumes training from the last checkpoint."""
    managed_by: Annotated[str, StringConstraints(max_length=63)] = MANAGED_BY
    """Controller that handles the job; with any other value, this operator ignores it."""
    num_nodes: Annotated[int, Field(ge=1, le=1000)] = 1
    """Worker pods. With `elastic`, may change within its bounds while the job runs, also with kubectl
    scale."""
    num_proc_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Ranks (processes) per worker pod."""
    resources_per_node: Resources = Field(default_factory=Resources)
    """CPU, memory and accelerators of each worker pod."""
    elastic: Elastic | None = None
    """Elastic bounds. Unset: a fixed number of nodes."""
    gang_scheduling: GangScheduling = Field(default_factory=GangScheduling)
    """All-or-nothing placement of the worker pods."""
    pod_template: PodTemplate = Field(default_factory=PodTemplate)
    """Placement and metadata of the generated pods."""
    storage: Storage
    """The volume for the dataset, checkpoints, TensorBoard files and samples."""
    dataset: AnyObject
    """Music source, tokenizer and split."""
    training: AnyObject
    """Training configuration."""
    run_policy: RunPolicy = Field(default_factory=RunPolicy)
    """Retries, deadlines and clean-up."""

    @property
    def max_nodes(self) -> int:
        """The most worker pods that the job may have."""
        return self.elastic.max_nodes if self.elastic else self.num_nodes
