"""Reads headings, commands and manifests from the documentation pages for the tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
JOB_FILES = sorted((ROOT / "configs/jobs").glob("*.yaml"))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEREDOC = re.compile(r"<<'(\w+)'\n(.*?)^\1$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks in the given languages."""
    return [body for language, body in FENCED.findall(page.read_text()) if language in languages]


def manifests(page: Path) -> Iterator[Any]:
    """The YAML documents of a page, including those in here-documents of commands."""
    shown = [body for block in blocks(page, "sh", "console") for _, body in HEREDOC.findall(block)]
    for block in [*blocks(page, "yaml"), *shown]:
        yield from yaml.safe_load_all(block)


def commands(page: Path) -> Iterator[list[str]]:
    """The commands in a page's blocks as words, without comments, prompts, variables and here-documents."""
    for block in blocks(page, "sh", "console"):
        text = HEREDOC.sub("", block).replace("\\\n", " ")
        for line in text.splitlines():
            for part in re.split(r"\s\|\s", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    del words[0]
                if words:
                    yield words


def mentioned(page: Path, program: str) -> Iterator[list[str]]:
    """The commands of one program in the prose."""
    prose = FENCED.sub("", page.read_text())
    for code in re.findall(rf"`({re.escape(program)} [^`]+)`", prose):
        yield shlex.split(code)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub generates for a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number, name = 0, slug
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found
