"""Dashboard Operator: reconciliation, API requests, freshness of the watches, process."""

from __future__ import annotations

from board import Dashboard, Panel, Query, Row

REQUESTS = "aurl_operator_api_requests_total"
#: Restricts process metrics, which other pods have too, to the operator's pods.
OURS = "and on (instance) aurl_operator_leader"


def rate(series: str) -> str:
    """Return a query for the rate per second of a counter."""
    return f"rate({series}[$__rate_interval])"


def quantile(q: float) -> str:
    """Return a query for a quantile of the reconciliation time."""
    return f"histogram_quantile({q}, sum by (le) ({rate('aurl_operator_reconcile_seconds_bucket')}))"


FAILED = rate(f'{REQUESTS}{{code!~"2.."}}')

OPERATOR = Dashboard(
    uid="aurl-operator",
    title="Aurl / Operator",
    description="The operator itself: reconciliation, queue, API requests, watches, memory.",
    rows=(
        Row(
            "Reconciliation",
            (
                Panel(
                    "Leaders",
                    "Exactly one replica is the leader; the others stand by.",
                    "short",
                    [Query("sum(aurl_operator_leader)", "leaders")],
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Reconciliation time",
                    "Duration of one reconciliation, including its API requests.",
                    "s",
                    [Query(quantile(0.5), "p50"), Query(quantile(0.99), "p99")],
                    width=10,
                ),
                Panel(
                    "Reconciliations",
                    "Rate by result. Conflicts and retries are normal; errors are bugs.",
                    "ops",
                    [
                        Query(
                            f"sum by (result) ({rate('aurl_operator_reconciles_total')})",
                            "{{result}}",
                        )
                    ],
                    width=10,
                ),
                Panel(
                    "Queue depth",
                    "Jobs waiting to be reconciled.",
                    "short",
                    [Query("max(aurl_operator_queue_depth)", "jobs")],
                    width=12,
                ),
                Panel(
                    "Oldest job in the queue",
                    "Time that it has been waiting or in progress.",
                    "s",
                    [Query("max(aurl_operator_queue_oldest_seconds)", "age")],
                    width=12,
                ),
            ),
        ),
        Row(
            "API server",
            (
                Panel(
                    "API requests",
                    "Rate by verb and resource.",
                    "reqps",
                    [
                        Query(
                            f"sum by (verb, resource) ({rate(REQUESTS)})",
                            "{{verb}} {{resource}}",
                        )
                    ],
                    width=12,
                ),
                Panel(
                    "Failed API requests",
                    "Rate by verb and status code. 0: no response. 404 and 409 are often normal.",
                    "reqps",
                    [
                        Query(
                            f"sum by (verb, code) ({FAILED}) or vector(0)",
                            "{{verb}} {{code}}",
                        )
                    ],
                    width=12,
                ),
                Panel(
                    "Admission reviews",
                    "Reviews of the validating webhook, if enabled, by result.",
                    "short",
                    [Query("sum by (result) (aurl_operator_admissions_total)", "{{result}}")],
                    width=24,
                    height=6,
                ),
            ),
        ),
        Row(
            "Freshness",
            (
                Panel(
                    "Watch age",
                    "Time since the last sign of life of each watch.",
                    "s",
                    [
                        Query(
                            "time() - max by (resource) (aurl_operator_watch_last_contact_timestamp_seconds)",
                            "{{resource}}",
                        )
                    ],
                ),
                Panel(
                    "Time since the last watch event",
                    "Grows as long as nothing changes in the cluster.",
                    "s",
                    [
                        Query(
                            "time() - max by (resource) (aurl_operator_watch_last_event_timestamp_seconds)",
                            "{{resource}}",
                        )
                    ],
                ),
                Panel(
                    "Time since the last resync",
                    "Time since the last full relist.",
                    "s",
                    [Query("time() - max(aurl_operator_last_resync_timestamp_seconds)", "resync")],
                ),
            ),
        ),
        Row(
            "Process",
            (
                Panel(
                    "Memory",
                    "Resident memory of each replica.",
                    "bytes",
                    [Query(f"process_resident_memory_bytes {OURS}", "{{pod}}")],
                    width=12,
                ),
                Panel(
                    "CPU",
                    "CPU cores used by each replica.",
                    "short",
                    [
                        Query(
                            f"{rate('process_cpu_seconds_total')} {OURS}",
                            "{{pod}}",
                        )
                    ],
                    width=12,
                ),
            ),
        ),
    ),
)
