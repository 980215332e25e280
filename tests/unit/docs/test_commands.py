"""Commands and manifests on the pages are accepted by the programs they are written for."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from aurl_dev.cluster import system
from aurl_trainer.cli.main import command_line
from job_schema import check_job
from pages import JOB_FILES, PAGES, ROOT, commands, manifests, mentioned

PROGRAMS = {"aurl-trainer", "curl", "helm", "kubectl", "make"}
OURS = ["-m", "aurl_trainer"]
VALUES = json.loads((ROOT / "charts/aurl-operator/values.schema.json").read_text())
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def shown(page: Path, program: str) -> list[list[str]]:
    """Return the arguments of every call of a program in the blocks of a page."""
    found = []
    for words in commands(page):
        if words[0].endswith("/python") and words[1:3] == OURS:
            words = ["aurl-trainer", *words[3:]]
        assert words[0] in PROGRAMS, words
        if words[0] == program:
            found.append(words[1:])
    return found


@each_page
def test_the_command_line_accepts_the_shown_commands(page: Path) -> None:
    for arguments in shown(page, "aurl-trainer"):
        command_line().parse_args(arguments)


def subcommand(parser: argparse.ArgumentParser, words: list[str]) -> argparse.ArgumentParser | None:
    """Return the parser of the command named before the first option; None if it does not exist."""
    for word in words:
        choices = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
        if word.startswith("-") or not choices:
            break
        if word not in choices[0]:
            return None
        parser = choices[0][word]
    return parser


@each_page
def test_commands_and_options_in_the_prose_exist(page: Path) -> None:
    for _, *words in mentioned(page, "aurl-trainer"):
        parser = subcommand(command_line(), words)
        assert parser is not None, words
        known = {option for action in parser._actions for option in action.option_strings}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_a_wrong_command_is_noticed() -> None:
    assert subcommand(command_line(), ["checkpoints", "list"]) is not None
    assert subcommand(command_line(), ["checkpoints", "destroy"]) is None
    with pytest.raises(SystemExit):
        command_line().parse_args(["sample", "--jobdir", "x"])


@each_page
def test_values_that_are_set_exist_in_the_chart(page: Path) -> None:
    text = page.read_text()
    for arguments in shown(page, "helm"):
        assert [word for word in arguments if word.startswith("charts/") and not (ROOT / word).is_dir()] == []
    for path in re.findall(r"--set(?:-string|-json)? ([a-z][A-Za-z]*(?:\.[A-Za-z]+)*)=", helm_parts(text)):
        at = VALUES
        for part in path.split("."):
            if "properties" not in at:  # labels, for example, may have any name
                break
            assert part in at["properties"], f"--set {path}: no {part}"
            at = at["properties"][part]


def helm_parts(text: str) -> str:
    """Return a page without lines whose --set is not Helm's."""
    return "\n".join(line for line in text.replace("\\\n", " ").splitlines() if "aurl_trainer" not in line)


@each_page
def test_manifests_are_accepted_by_the_api_server(page: Path) -> None:
    for manifest in manifests(page):
        if "kind" not in manifest:
            continue
        if manifest["kind"] == "AurlTrainingJob":
            check_job(manifest, page.name)
        else:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def whole_job(**spec: Any) -> dict[str, Any]:
    """Return a job file of ours with parts of its spec changed."""
    job: dict[str, Any] = yaml.safe_load(JOB_FILES[0].read_text())
    for key, value in spec.items():
        job["spec"][key] = {**job["spec"].get(key, {}), **value} if isinstance(value, dict) else value
    return job


@each_page
def test_parts_of_job_files_and_patches_are_valid(page: Path) -> None:
    for part in manifests(page):
        if "kind" not in part and "scrape_configs" not in part:
            check_job(whole_job(**part), page.name)
    for arguments in shown(page, "kubectl"):
        if arguments[0] == "patch":
            patch = json.loads(arguments[arguments.index("--patch") + 1])
            check_job(whole_job(**patch["spec"]), page.name)


def test_the_shown_prometheus_configuration_is_valid(tmp_path: Path) -> None:
    (part,) = [part for page in PAGES for part in manifests(page) if "scrape_configs" in part]
    for job in part["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]  # not in Debian's build
    (tmp_path / "aurl.yaml").write_bytes((ROOT / "charts/aurl-operator/rules/aurl.yaml").read_bytes())
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(part))
    system.ensure(("prometheus",), print)
    command = [str(system.program("promtool")), "check", "config", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
