"""The page of symptoms knows every reason for which the operator stalls, fails or refuses a job."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.paths import CHECKOUT

PAGE = (CHECKOUT / "docs/troubleshooting.md").read_text()
SOURCES = sorted((CHECKOUT / "operator/aurl_operator").glob("*.py"))
#: How reasons stand in the operator's code.
REASONS = re.compile(
    r'(?:Obstacle\(|\.fail\(|Acceptance\([^)"]*|Event\("Warning", )\s*"([A-Z][A-Za-z]+)"', re.DOTALL
)


def reasons(path: Path) -> set[str]:
    """The reasons in one file."""
    return set(REASONS.findall(path.read_text()))


def test_every_reason_is_a_symptom() -> None:
    found = set().union(*map(reasons, SOURCES))
    assert {"ClaimNotFound", "DeadlineExceeded", "ChangeRefused", "Straggler"} <= found
    assert [reason for reason in sorted(found) if f"`{reason}`" not in PAGE] == []
