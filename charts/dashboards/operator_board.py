"""Dashboard Operator: reconciliation, API requests, freshness of the watches, process."""

from __future__ import annotations

from board import Dashboard, Panel

REQUESTS = "aurl_operator_api_requests_total"
#: Restricts process metrics, which other pods have too, to the operator's pods.
OURS = "and on (instance) aurl_operator_leader"


def rate(series: str) -> str:
    """Return a query for the rate per second of a counter."""
    return f"rate({series}[$__rate_interval])"


def quantile(q: float) -> str:
    """Return a query for a quantile of the reconciliation time."""
    return f"histogram_quantile({q}, sum by (le) ({rate('aurl_operator_reconcile_seconds_bucket')}))"


def age(timestamp: str) -> str:
    """Return a query for the time since a timestamp of each watch."""
    return f"time() - max by (resource) ({timestamp})"


FAILED = rate(f'{REQUESTS}{{code!~"2.."}}')

OPERATOR = Dashboard(
    uid="aurl-operator",
    title="Aurl / Operator",
    description="The operator itself: reconciliation, queue, API requests, watches, memory.",
    rows={
        "Reconciliation": (
            Panel(
                "Leaders",
                "Exactly one replica is the leader; the others stand by.",
                "short",
                {"leaders": "sum(aurl_operator_leader)"},
                kind="stat",
                width=4,
            ),
            Panel(
                "Reconciliation time",
                "Duration of one reconciliation, including its API requests.",
                "s",
                {"p50": quantile(0.5), "p99": quantile(0.99)},
                width=10,
            ),
            Panel(
                "Reconciliations",
                "Rate by result. Conflicts and retries are normal; errors are bugs.",
                "ops",
                {"{{result}}": f"sum by (result) ({rate('aurl_operator_reconciles_total')})"},
                width=10,
            ),
            Panel(
                "Queue depth",
                "Jobs waiting to be reconciled.",
                "short",
                {"jobs": "max(aurl_operator_queue_depth)"},
                width=12,
            ),
            Panel(
                "Oldest job in the queue",
                "Time that it has been waiting or in progress.",
                "s",
                {"age": "max(aurl_operator_queue_oldest_seconds)"},
                width=12,
            ),
        ),
        "API server": (
            Panel(
                "API requests",
                "Rate by verb and resource.",
                "reqps",
                {"{{verb}} {{resource}}": f"sum by (verb, resource) ({rate(REQUESTS)})"},
                width=12,
            ),
            Panel(
                "Failed API requests",
                "Rate by verb and status code. 0: no response. 404 and 409 are often normal.",
                "reqps",
                {"{{verb}} {{code}}": f"sum by (verb, code) ({FAILED}) or vector(0)"},
                width=12,
            ),
            Panel(
                "Admission reviews",
                "Reviews of the validating webhook (webhook.enabled), by result.",
                "short",
                {"{{result}}": "sum by (result) (aurl_operator_admissions_total)"},
                width=24,
                height=6,
            ),
        ),
        "Freshness": (
            Panel(
                "Watch age",
                "Time since the last sign of life of each watch.",
                "s",
                {"{{resource}}": age("aurl_operator_watch_last_contact_timestamp_seconds")},
            ),
            Panel(
                "Time since the last watch event",
                "Grows as long as nothing changes in the cluster.",
                "s",
                {"{{resource}}": age("aurl_operator_watch_last_event_timestamp_seconds")},
            ),
            Panel(
                "Time since the last resync",
                "Time since the last full relist.",
                "s",
                {"resync": "time() - max(aurl_operator_last_resync_timestamp_seconds)"},
            ),
        ),
        "Process": (
            Panel(
                "Memory",
                "Resident memory of each replica.",
                "bytes",
                {"{{pod}}": f"process_resident_memory_bytes {OURS}"},
                width=12,
            ),
            Panel(
                "CPU",
                "CPU cores used by each replica.",
                "short",
                {"{{pod}}": f"{rate('process_cpu_seconds_total')} {OURS}"},
                width=12,
            ),
        ),
    },
)
