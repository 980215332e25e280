"""Decides which spec a job follows: while it runs the one it was started with, otherwise the wanted one."""

from __future__ import annotations

from dataclasses import dataclass

from aurl_operator.api.spec import JobSpec
from aurl_operator.core.names import JobRef
from aurl_operator.core.objects import mutable_fields
from aurl_operator.core.validation import ConfigCheck, Problem, check_spec, summary


@dataclass(frozen=True)
class Acceptance:
    """The spec to follow, or None, and why the wanted one was refused, if it was.

    complaint: what is wrong. message: the same, and what happens to the job. changed: the fields that differ
    from the running job although they may not.
    """

    spec: JobSpec | None
    reason: str = ""
    message: str = ""
    complaint: str = ""
    changed: tuple[str, ...] = ()


def accept(
    job: JobRef,
    wanted: JobSpec | None,
    problems: tuple[Problem, ...],
    remembered: JobSpec | None,
    started: bool,
    check_config: ConfigCheck,
) -> Acceptance:
    """Choose between the wanted spec and the one that the running job was started with.

    problems: the reasons why `wanted` is None. remembered: the spec in the job's ConfigMap. started: True if
    the job has started and was not suspended since. A running job keeps the spec it was started with;
    suspension and run policy may change at any time.
    """
    if wanted is not None:
        problems = check_spec(job, wanted, check_config)
    valid = wanted is not None and not problems
    running = started and not (wanted is not None and wanted.suspend)
    accepted = remembered if running else None
    if accepted is not None and check_spec(job, accepted, check_config):
        accepted = None  # the ConfigMap was tampered with
    if accepted is None:
        return Acceptance(wanted) if valid else _invalid(problems)
    if wanted is None or not valid:
        message = f"The job continues unchanged; the new specification is invalid: {_sentence(problems)}"
        complaint = f"The specification is invalid: {_sentence(problems)}"
        return Acceptance(accepted, "InvalidSpec", message, complaint)
    mutable = mutable_fields(accepted)
    elastic = accepted.elastic
    if elastic is not None and not elastic.min_nodes <= wanted.num_nodes <= elastic.max_nodes:
        mutable -= {"num_nodes"}
    followed = accepted.model_copy(update={name: getattr(wanted, name) for name in mutable})
    changed = tuple(
        field.alias or name
        for name, field in JobSpec.model_fields.items()
        if name not in mutable and getattr(wanted, name) != getattr(accepted, name)
    )
    if not changed:
        return Acceptance(followed)
    complaint = refused_change(changed)
    return Acceptance(
        followed, "ChangeRefused", f"The job continues unchanged; {complaint}", complaint, changed
    )


def refused_change(fields: tuple[str, ...]) -> str:
    """Return one sentence on why these fields of the spec keep their value."""
    paths = ", ".join(f"spec.{field}" for field in fields)
    return f"{paths} cannot change while the job runs: suspend it first."


def _invalid(problems: tuple[Problem, ...]) -> Acceptance:
    name = any(problem.path == "metadata.name" for problem in problems)
    message = f"The specification is invalid: {_sentence(problems)}"
    return Acceptance(None, "InvalidName" if name else "InvalidSpec", message, message)


def _sentence(problems: tuple[Problem, ...]) -> str:
    return f"{summary(problems).rstrip('.')}."
