"""Download a Debian source package with a private apt configuration; /etc/apt is not changed."""

from __future__ import annotations

import re
from pathlib import Path

from aurl_dev.cluster.paths import Echo
from aurl_dev.cluster.shell import run_long
from aurl_dev.cluster.system import APT, QUIET
from aurl_dev.errors import ClusterError, MachineError

APT_ETC = Path("/etc/apt")


def deb822_as_source(text: str) -> str:
    """Turn the binary stanzas of a deb822 sources file into source stanzas.

    Keeps all other options: this machine's mirrors, keys and components.
    """
    stanzas = []
    for stanza in re.split(r"\n\s*\n", text.strip("\n")):
        types = re.search(r"^Types:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
        if types is None or "deb" not in types[1].split():
            continue
        if re.search(r"^Enabled:\s*(no|false|0)\s*$", stanza, re.MULTILINE | re.IGNORECASE):
            continue
        stanzas.append(stanza[: types.start()] + "Types: deb-src" + stanza[types.end() :])
    return "".join(f"{stanza}\n\n" for stanza in stanzas)


def one_line_as_source(text: str) -> str:
    """Turn the `deb …` lines of a one-line sources file into `deb-src …` lines."""
    lines = []
    for line in text.splitlines():
        match = re.match(r"^\s*deb\s+(.*\S)\s*$", line)
        if match:
            lines.append(f"deb-src {match[1]}\n")
    return "".join(lines)


def source_files(etc: Path) -> list[Path]:
    """Return the files below `etc` in which apt's sources are configured."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    return [file for file in files if file.suffix in {".list", ".sources"} and file.is_file()]


def write_source_entries(etc: Path, parts: Path) -> int:
    """Write source entries for every binary entry under `etc` into `parts`; return how many files."""
    parts.mkdir(parents=True, exist_ok=True)
    count = 0
    for file in source_files(etc):
        convert = deb822_as_source if file.suffix == ".sources" else one_line_as_source
        text = convert(file.read_text())
        if text:
            (parts / f"{count:02d}-source{file.suffix}").write_text(text)
            count += 1
    return count


def download(package: str, into: Path, echo: Echo) -> Path:
    """Download the source of `package` into the directory `into` and return its upstream tarball."""
    parts = into / "apt" / "parts"
    if write_source_entries(APT_ETC, parts) == 0:
        raise MachineError(f"cannot download the source of {package}: {APT_ETC} configures no apt sources")
    private = [
        *("-o", "Dir::Etc::sourcelist=/dev/null"),
        *("-o", f"Dir::Etc::sourceparts={parts}"),
        *("-o", f"Dir::State::lists={into / 'apt' / 'lists'}"),
        *("-o", f"Dir::Cache={into / 'apt' / 'cache'}"),
        # The cache is in root's home, which apt's own user cannot read.
        *("-o", "APT::Sandbox::User=root"),
    ]
    (into / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (into / "apt" / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    run_long([*APT, *private, "update"], f"source lists for {package}", echo, env=QUIET)
    run_long(
        [*APT, *private, "source", "--download-only", package],
        f"source of {package}",
        echo,
        cwd=into,
        env=QUIET,
    )
    tarballs = sorted(into.glob(f"{package}_*.orig.tar.*"))
    if not tarballs:
        raise ClusterError(f"apt left no upstream tarball of {package} in {into}")
    return tarballs[-1]
