"""Source entries are derived from the machine's own binary entries."""

from pathlib import Path

from aurl_dev.cluster.aptsource import deb822_as_source, one_line_as_source, write_source_entries

DEB822 = """\
# The archive
Types: deb
URIs: http://mirror.example/debian
Suites: stable stable-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/security
Suites: stable-security
Components: main

Types: deb
Enabled: no
URIs: http://elsewhere.example/
Suites: ./
"""


def test_deb822_keeps_mirror_keys_and_suites_and_skips_disabled_entries() -> None:
    text = deb822_as_source(DEB822)
    assert text.count("Types: deb-src\n") == 2
    assert "Types: deb\n" not in text
    assert "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" in text
    assert "elsewhere" not in text


def test_deb822_with_sources_only_gives_nothing() -> None:
    assert deb822_as_source("Types: deb-src\nURIs: http://mirror.example/\nSuites: stable\n") == ""


def test_one_line_entries_keep_their_options_and_comments_are_dropped() -> None:
    text = one_line_as_source(
        "# deb http://commented.example stable main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian stable main  \n"
        "deb-src http://mirror.example/debian stable main\n"
    )
    assert text == "deb-src [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian stable main\n"


def test_files_apt_does_not_read_are_not_read(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    parts = etc / "sources.list.d"
    parts.mkdir(parents=True)
    (etc / "sources.list").write_text("")
    (parts / "debian.sources").write_text(DEB822)
    (parts / "old.list.disabled").write_text("deb http://old.example/ stable main\n")
    assert write_source_entries(etc, tmp_path / "out") == 1
    assert [file.suffix for file in (tmp_path / "out").iterdir()] == [".sources"]
