"""Fleet: all jobs of the cluster, as the operator counts them."""

from __future__ import annotations

from board import Dashboard, Panel, Query, Row

# The trainer's own series carry the labels namespace and training_job, see docs/observability.md.
GOODPUT = (
    "sum(aurl_train_goodput_seconds) / "
    "(sum(aurl_train_goodput_seconds) + sum(sum without (cause) (aurl_train_badput_seconds)))"
)
TO_STEP = "aurl_operator_submit_to_first_step_seconds"
TO_PODS = "aurl_operator_submit_to_pods_created_seconds"
RECOVERY = "aurl_operator_recovery_seconds"
WAITING = 'sum(aurl_operator_jobs{state=~"Pending|Preparing|Starting|Restarting"})'


def seconds(metric: str, share: float, by: str = "le") -> str:
    """A quantile of a histogram over the last hour."""
    return f"histogram_quantile({share}, sum by ({by}) (rate({metric}_bucket[1h])))"


FLEET = Dashboard(
    uid="aurl-fleet",
    title="Aurl / Fleet",
    description="All training jobs of the cluster: states, failures, and how long users wait.",
    rows=(
        Row(
            "Jobs",
            (
                Panel(
                    "Running jobs",
                    "Jobs that train now.",
                    "short",
                    [Query('sum(aurl_operator_jobs{state="Running"})', "running")],
                    kind="stat",
                    width=4,
                    height=6,
                ),
                Panel(
                    "Waiting jobs",
                    "Jobs that are not training yet: pending, queued or preparing their dataset.",
                    "short",
                    [Query(WAITING, "waiting")],
                    kind="stat",
                    width=4,
                    height=6,
                ),
                Panel(
                    "Tokens per second",
                    "Of all jobs together.",
                    "short",
                    [Query("sum(aurl_operator_job_tokens_per_second)", "tokens/s")],
                    kind="stat",
                    width=4,
                    height=6,
                ),
                Panel(
                    "Goodput",
                    "Share of all jobs' wall clock that was training and was not lost.",
                    "percentunit",
                    [Query(GOODPUT, "goodput")],
                    kind="stat",
                    width=4,
                    height=6,
                    maximum=1,
                ),
                Panel(
                    "Jobs by state",
                    "How many jobs are in which state.",
                    "short",
                    [Query("sum by (state) (aurl_operator_jobs) > 0", "{{state}}")],
                    width=8,
                    height=6,
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Failures",
            (
                Panel(
                    "Failed jobs by class",
                    "Jobs that failed for good since the operator started, by class of failure.",
                    "short",
                    [Query("sum by (class) (aurl_operator_failures_total)", "{{class}}")],
                    kind="bargauge",
                ),
                Panel(
                    "Gang restarts by class",
                    "Whole gangs that were started again, by what had happened.",
                    "short",
                    [Query("sum by (class) (aurl_operator_restarts_total)", "{{class}}")],
                    kind="bargauge",
                ),
                Panel(
                    "Stragglers",
                    "Ranks that are slower than their peers, by job.",
                    "short",
                    [Query("aurl_operator_job_stragglers", "{{job_namespace}}/{{job_name}}")],
                ),
            ),
        ),
        Row(
            "Waiting",
            (
                Panel(
                    "From submission to the first step",
                    "What a user waits for: pods, images, preparation of the dataset, start.",
                    "s",
                    [
                        Query(seconds(TO_STEP, 0.5), "half of the jobs"),
                        Query(seconds(TO_STEP, 0.9), "nine of ten"),
                    ],
                ),
                Panel(
                    "From submission to all pods",
                    "Includes the preparation of the dataset, which comes before the workers.",
                    "s",
                    [
                        Query(seconds(TO_PODS, 0.5), "half of the jobs"),
                        Query(seconds(TO_PODS, 0.9), "nine of ten"),
                    ],
                ),
                Panel(
                    "Recovery",
                    "From the failure of a gang to its new pods, and to their first step.",
                    "s",
                    [
                        Query(
                            seconds(RECOVERY, 0.9, "le, until"),
                            "{{until}}, nine of ten",
                        )
                    ],
                    needs="a gang restart",
                ),
            ),
        ),
        Row(
            "Each job",
            (
                Panel(
                    "Loss",
                    "Training loss in nats per token, as the operator last saw it.",
                    "none",
                    [Query("aurl_operator_job_loss", "{{job_namespace}}/{{job_name}}")],
                    width=12,
                    minimum=None,
                ),
                Panel(
                    "State of each job",
                    "The states that jobs are in now.",
                    "short",
                    [Query("aurl_operator_job_state == 1", "")],
                    kind="table",
                    width=12,
                ),
            ),
        ),
    ),
)
