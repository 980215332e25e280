"""Validates a spec: types by the models, cross-field rules here, the configuration by JSON schema."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaError
from jsonschema.exceptions import best_match
from pydantic import ValidationError

from aurl_operator.api.base import QUANTITY_PATTERN
from aurl_operator.api.spec import ExtraVolume, JobSpec, PodTemplate, Resources
from aurl_operator.api.trainer_contract import CONFIG_DIR, RUN_DIR, VARIABLE_PREFIX, VOLUME_DIR
from aurl_operator.core.names import RESERVED_PREFIX, JobRef, name_problem
from aurl_operator.core.parsers import text

_SHOWN: Final = 3


@dataclass(frozen=True)
class Problem:
    """One error in a job; `path` starts at the job, e.g. `spec.training.steps`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def summary(problems: Iterable[Problem]) -> str:
    """Return the first problems in one line, and how many more there are."""
    found = list(problems)
    line = "; ".join(str(problem) for problem in found[:_SHOWN])
    return line if len(found) <= _SHOWN else f"{line}; and {len(found) - _SHOWN} more"


ConfigCheck = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Problem, ...]]
"""Validates `dataset` and `training`."""

TAKEN_PATHS: Final = (CONFIG_DIR, VOLUME_DIR, RUN_DIR, "/tmp", "/dev")
TAKEN_VOLUMES: Final = frozenset({"config", "data", "tmp", "shm", "run"})
#: Annotations that weaken the pod's sandbox on servers that still read them.
_SANDBOX_ANNOTATIONS: Final = ("seccomp.security.alpha.kubernetes.io/", "container.seccomp.security.alpha")
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_MAX_PROBLEMS: Final = 20


def parse_spec(raw: object) -> tuple[JobSpec | None, tuple[Problem, ...]]:
    """Parse a spec. Return it, or None and the problems, whose paths start with `spec`."""
    try:
        return JobSpec.model_validate(raw if isinstance(raw, Mapping) else {}), ()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return None, tuple(Problem(_path("spec", item["loc"]), item["msg"]) for item in found[:_MAX_PROBLEMS])
    except RecursionError:
        return None, (Problem("spec", "is nested too deeply"),)


def check_spec(job: JobRef, spec: JobSpec, check_config: ConfigCheck) -> tuple[Problem, ...]:
    """Return the problems that types cannot express; empty if the spec is valid."""
    problems: list[Problem] = []
    name = name_problem(job.name, spec.max_nodes)
    if name:
        problems.append(Problem("metadata.name", name))
    storage = spec.storage
    if (storage.claim_name is None) == (storage.claim_template is None):
        problems.append(Problem("spec.storage", "give exactly one of claimName and claimTemplate"))
    if storage.claim_template:
        problems += _quantity("spec.storage.claimTemplate.size", storage.claim_template.size)
        if spec.max_nodes > 1 and storage.claim_template.access_modes == ["ReadWriteOncePod"]:
            text = f"{spec.max_nodes} pods cannot share a ReadWriteOncePod volume; use ReadWriteMany"
            problems.append(Problem("spec.storage.claimTemplate.accessModes", text))
    problems += _resources(spec.resources_per_node)
    problems += _scale(spec)
    problems += _overlay(spec.pod_template)
    problems += check_config(spec.dataset, spec.training)
    return tuple(problems[:_MAX_PROBLEMS])


def config_checker(schemas: Mapping[str, Mapping[str, Any]]) -> ConfigCheck:
    """Return a check of `dataset` and `training` against their generated JSON schemas, keyed by these names.

    Results are cached by content: a running job is reconciled often and its configuration never changes.
    """
    validators = {name: Draft202012Validator(schemas[name]) for name in ("dataset", "training")}

    @lru_cache(maxsize=4096)
    def check(document: str) -> tuple[Problem, ...]:
        # Each error costs about a millisecond, so no more are looked for than are reported.
        found = [
            _from_schema(f"spec.{name}", error)
            for name, part in json.loads(document).items()
            for error in islice(validators[name].iter_errors(part), _MAX_PROBLEMS)
        ]
        return tuple(sorted(found, key=lambda problem: problem.path)[:_MAX_PROBLEMS])

    def check_config(dataset: Mapping[str, Any], training: Mapping[str, Any]) -> tuple[Problem, ...]:
        try:
            return check(json.dumps({"dataset": dataset, "training": training}, sort_keys=True))
        except RecursionError:
            return (Problem("spec.training", "is nested too deeply"),)

    return check_config


def _from_schema(root: str, error: SchemaError) -> Problem:
    """Return a sentence on a schema violation; of a union, on the alternative that matches best."""
    closest = best_match([error]) or error
    message = closest.message
    if closest.validator == "const" or closest.validator == "enum":
        value = closest.validator_value
        allowed = value if isinstance(value, list) else [value]
        message = f"{json.dumps(closest.instance)} is not one of {', '.join(map(json.dumps, allowed))}"
    return Problem(_path(root, closest.absolute_path), text(message, 300))


def _path(root: str, parts: Any) -> str:
    path = root
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def _quantity(path: str, value: int | float | str) -> list[Problem]:
    if re.fullmatch(QUANTITY_PATTERN, str(value)) and len(str(value)) <= 32:
        return []
    return [Problem(path, f"{str(value)[:40]!r} is not a quantity such as 500m, 2 or 1Gi")]


def _resources(resources: Resources) -> list[Problem]:
    problems = []
    for kind, values in (("requests", resources.requests), ("limits", resources.limits)):
        for name, value in values.items():
            problems += _quantity(f"spec.resourcesPerNode.{kind}.{name}", value)
    return problems


def _scale(spec: JobSpec) -> list[Problem]:
    """Check the number of nodes against the elastic bounds and the gang scheduler."""
    elastic, gangs = spec.elastic, spec.gang_scheduling
    problems = []
    if elastic is not None:
        if elastic.min_nodes > elastic.max_nodes:
            text = f"is {elastic.min_nodes} but must not be more than maxNodes ({elastic.max_nodes})"
            problems.append(Problem("spec.elastic.minNodes", text))
        elif not elastic.min_nodes <= spec.num_nodes <= elastic.max_nodes:
            text = f"is {spec.num_nodes} but spec.elastic allows {elastic.min_nodes} to {elastic.max_nodes}"
            problems.append(Problem("spec.numNodes", text))
        if gangs.provider != "Plain":
            text = f"{gangs.provider} supports only gangs of a fixed size; remove spec.elastic or use Plain"
            problems.append(Problem("spec.gangScheduling.provider", text))
    if gangs.provider == "Kueue" and gangs.queue is None:
        problems.append(Problem("spec.gangScheduling.queue", "must name a LocalQueue for the provider Kueue"))
    return problems


def _overlay(overlay: PodTemplate) -> list[Problem]:
    problems = []
    root = "spec.podTemplate"
    for kind, keys in (("labels", overlay.labels), ("annotations", overlay.annotations)):
        for key in keys:
            if key.split("/")[0] == RESERVED_PREFIX.rstrip("/") or key == "app.kubernetes.io/managed-by":
                problems.append(Problem(f"{root}.{kind}.{key}", "belongs to the operator"))
    for key, value in overlay.annotations.items():
        weakens_apparmor = key.startswith(_APPARMOR) and value == "unconfined"
        if weakens_apparmor or key.startswith(_SANDBOX_ANNOTATIONS):
            problems.append(Problem(f"{root}.annotations.{key}", "would weaken the pod's sandbox"))
    for i, variable in enumerate(overlay.env):
        if variable.name.startswith(VARIABLE_PREFIX):
            problems.append(Problem(f"{root}.env[{i}].name", f"{variable.name} belongs to the operator"))
    names = Counter(volume.name for volume in overlay.volumes)
    for i, volume in enumerate(overlay.volumes):
        problems += _volume(f"{root}.volumes[{i}]", volume)
        if volume.name in TAKEN_VOLUMES or names[volume.name] > 1:
            problems.append(Problem(f"{root}.volumes[{i}].name", f"{volume.name!r} is taken"))
    return problems


def _volume(path: str, volume: ExtraVolume) -> list[Problem]:
    problems = []
    sources = (volume.empty_dir, volume.config_map, volume.persistent_volume_claim)
    if sum(source is not None for source in sources) != 1:
        problems.append(Problem(path, "give exactly one of emptyDir, configMap and persistentVolumeClaim"))
    parts = [part for part in volume.mount_path.split("/") if part not in ("", ".")]
    normal = "/" + "/".join(parts)
    taken = any(normal == p or normal.startswith(f"{p}/") or p.startswith(f"{normal}/") for p in TAKEN_PATHS)
    if ".." in parts or not parts or taken:
        problems.append(Problem(f"{path}.mountPath", f"{volume.mount_path!r} is taken or not a plain path"))
    return problems
