"""Operator: whether it keeps up, what the API server answers, and whether its watches live."""

from __future__ import annotations

from board import Dashboard, Panel, Query, Row

ANSWERS = "aurl_operator_api_requests_total"
#: Joins the process metrics of the operator's pods alone: other pods have such metrics, too.
OURS = "and on (instance) aurl_operator_leader"


def rate(series: str) -> str:
    """Growth per second."""
    return f"rate({series}[$__rate_interval])"


def quantile(share: float) -> str:
    """A quantile of the duration of reconciliations."""
    return f"histogram_quantile({share}, sum by (le) ({rate('aurl_operator_reconcile_seconds_bucket')}))"


REFUSED = rate(f'{ANSWERS}{{code!~"2.."}}')


OPERATOR = Dashboard(
    uid="aurl-operator",
    title="Aurl / Operator",
    description="The operator itself: reconciliation, queue, API server, watches, memory.",
    rows=(
        Row(
            "Work",
            (
                Panel(
                    "Acting replicas",
                    "Exactly one replica acts; the others wait.",
                    "short",
                    [Query("sum(aurl_operator_leader)", "leaders")],
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Duration of a reconciliation",
                    "Requests to the API server included.",
                    "s",
                    [Query(quantile(0.5), "median"), Query(quantile(0.99), "99 of 100")],
                    width=10,
                ),
                Panel(
                    "Reconciliations",
                    "By result: conflicts and retries are normal, errors are bugs.",
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
                    "Queue",
                    "Jobs that wait to be looked at.",
                    "short",
                    [Query("max(aurl_operator_queue_depth)", "jobs")],
                    width=12,
                ),
                Panel(
                    "Oldest job in the queue",
                    "How long it has waited or been worked on.",
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
                    "Requests",
                    "By verb and resource.",
                    "reqps",
                    [
                        Query(
                            f"sum by (verb, resource) ({rate(ANSWERS)})",
                            "{{verb}} {{resource}}",
                        )
                    ],
                    width=12,
                ),
                Panel(
                    "Answers that are no success",
                    "By code; 0 is no answer at all, 404 and 409 are often part of normal work.",
                    "reqps",
                    [
                        Query(
                            f"sum by (verb, code) ({REFUSED}) or vector(0)",
                            "{{verb}} {{code}}",
                        )
                    ],
                    width=12,
                ),
                Panel(
                    "Admission reviews",
                    "What the validating webhook has answered, where it is on.",
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
                    "Age of the watches",
                    "Time since a watch last showed that it lives.",
                    "s",
                    [
                        Query(
                            "time() - max by (resource) (aurl_operator_watch_last_contact_timestamp_seconds)",
                            "{{resource}}",
                        )
                    ],
                ),
                Panel(
                    "Last event of the watches",
                    "Time since a watch last brought a change; grows where nothing changes.",
                    "s",
                    [
                        Query(
                            "time() - max by (resource) (aurl_operator_watch_last_event_timestamp_seconds)",
                            "{{resource}}",
                        )
                    ],
                ),
                Panel(
                    "Last resync",
                    "Time since all objects were last listed.",
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
                    "Cores that each replica uses.",
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
