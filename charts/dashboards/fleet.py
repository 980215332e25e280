"""Dashboard Fleet: all jobs of the cluster, from the operator's metrics."""

from __future__ import annotations

from board import Dashboard, Panel

# Series of the trainer have the labels namespace and training_job, see docs/observability.md.
GOODPUT = (
    "sum(aurl_train_goodput_seconds) / "
    "(sum(aurl_train_goodput_seconds) + sum(sum without (cause) (aurl_train_badput_seconds)))"
)
TO_STEP = "aurl_operator_submit_to_first_step_seconds"
TO_PODS = "aurl_operator_submit_to_pods_created_seconds"
RECOVERY = "aurl_operator_recovery_seconds"
WAITING = 'sum(aurl_operator_jobs{state=~"Pending|Preparing|Starting|Restarting"})'


def quantile(metric: str, q: float, by: str = "le") -> str:
    """Return a query for a quantile of a histogram over the last hour."""
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket[1h])))"


FLEET = Dashboard(
    uid="aurl-fleet",
    title="Aurl / Fleet",
    description="All training jobs of the cluster: states, failures, start-up and recovery times.",
    rows={
        "Jobs": (
            Panel(
                "Running jobs",
                "Jobs that are training now.",
                "short",
                {"running": 'sum(aurl_operator_jobs{state="Running"})'},
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                "Waiting jobs",
                "Jobs that are pending, preparing their dataset, starting or restarting.",
                "short",
                {"waiting": WAITING},
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                "Tokens per second",
                "Throughput of all jobs together.",
                "short",
                {"tokens/s": "sum(aurl_operator_job_tokens_per_second)"},
                kind="stat",
                width=4,
                height=6,
            ),
            Panel(
                "Goodput",
                "Fraction of all jobs' wall-clock time spent on training that was not lost.",
                "percentunit",
                {"goodput": GOODPUT},
                kind="stat",
                width=4,
                height=6,
                maximum=1,
            ),
            Panel(
                "Jobs by state",
                "Number of jobs in each state.",
                "short",
                {"{{state}}": "sum by (state) (aurl_operator_jobs) > 0"},
                width=8,
                height=6,
                stacked=True,
            ),
        ),
        "Failures": (
            Panel(
                "Failed jobs by class",
                "Jobs that have failed since the operator started, by failure class.",
                "short",
                {"{{class}}": "sum by (class) (aurl_operator_failures_total)"},
                kind="bargauge",
            ),
            Panel(
                "Gang restarts by class",
                "Gang restarts since the operator started, by failure class.",
                "short",
                {"{{class}}": "sum by (class) (aurl_operator_restarts_total)"},
                kind="bargauge",
            ),
            Panel(
                "Stragglers",
                "Ranks slower than their peers, by job.",
                "short",
                {"{{job_namespace}}/{{job_name}}": "aurl_operator_job_stragglers"},
            ),
        ),
        "Start-up and recovery times": (
            Panel(
                "Submission to first step",
                "Includes scheduling, image pulls, dataset preparation and start-up.",
                "s",
                {"p50": quantile(TO_STEP, 0.5), "p90": quantile(TO_STEP, 0.9)},
            ),
            Panel(
                "Submission to all pods created",
                "Includes dataset preparation, which runs before the workers.",
                "s",
                {"p50": quantile(TO_PODS, 0.5), "p90": quantile(TO_PODS, 0.9)},
            ),
            Panel(
                "Recovery",
                "Time from a gang failure to its new pods, and to their first step (p90).",
                "s",
                {"{{until}}, p90": quantile(RECOVERY, 0.9, "le, until")},
                needs="a gang restart",
            ),
        ),
        "By job": (
            Panel(
                "Loss",
                "Training loss in nats per token, as last polled by the operator.",
                "none",
                {"{{job_namespace}}/{{job_name}}": "aurl_operator_job_loss"},
                width=12,
                minimum=None,
            ),
            Panel(
                "State by job",
                "Current state of each job.",
                "short",
                {"": "aurl_operator_job_state == 1"},
                kind="table",
                width=12,
            ),
        ),
    },
)
