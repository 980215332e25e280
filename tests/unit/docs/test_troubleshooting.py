"""The troubleshooting page has every reason that the operator gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurl_dev.cluster.paths import CHECKOUT
from aurl_operator.core import classify

PAGE = (CHECKOUT / "docs/troubleshooting.md").read_text()
SOURCES = sorted((CHECKOUT / "operator/aurl_operator").rglob("*.py"))
#: Functions and classes that take a reason as an argument.
GIVEN_TO = {
    "Acceptance", "Aspect", "Decision", "Event", "Failure", "Move", "Blocker",
    "_failure", "fail", "fail_user", "finish", "infrastructure", "start_next_attempt",
}  # fmt: skip
REASON = re.compile(r"[A-Z][a-z]+([A-Z][A-Za-z]+)*|OOMKilled")
#: Arguments of these calls that are not reasons: event types, states, failure classes.
OTHER_WORDS = {"Normal", "Warning", "True", "False", "Infrastructure", "Unknown", "Succeeded", "Failed"}


def reasons(path: Path) -> Iterator[str]:
    """The reasons in one file: literals in calls of GIVEN_TO that look like one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called not in GIVEN_TO:
            continue
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            literals = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
            for literal in literals:
                value = literal.value if isinstance(literal, ast.Constant) else None
                if isinstance(value, str) and REASON.fullmatch(value) and value not in OTHER_WORDS:
                    yield value


def test_every_reason_is_documented() -> None:
    found = {reason for path in SOURCES for reason in reasons(path)}
    assert {
        "ClaimNotFound", "DeadlineExceeded", "ChangeRefused", "Straggler", "OOMKilled", "InvalidPod",
        "BackoffLimitExceeded", "ScaledDown", "Interrupted", "ImageNotATrainer",
    } <= found  # fmt: skip
    assert [reason for reason in sorted(found) if f"`{reason}`" not in PAGE] == []


@pytest.mark.parametrize("name", classify.CLASSES)
def test_every_failure_class_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE
