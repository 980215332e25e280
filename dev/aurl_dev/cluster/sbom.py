"""Write the bill of materials of an image as CycloneDX: its Python and Debian packages."""

from __future__ import annotations

import json
import re
import tarfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from aurl_dev.cluster import provenance
from aurl_dev.cluster.image_sources import distribution
from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.errors import ClusterError

FOLDER = CHECKOUT / "build" / "images"
_DPKG = "var/lib/dpkg/status"
_PYTHON = re.compile(r"site-packages/([^/]+?)-([^/-]+)\.dist-info/METADATA$")


def write(name: str, reference: str, archive: Path, folder: Path = FOLDER) -> Path:
    """Write `<name>.cdx.json` for a built image and return its path. The same image gives the same bytes."""
    config = str(_manifest(archive)["Config"]).removesuffix(".json")
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, config))
    bom.metadata.timestamp = datetime.fromtimestamp(provenance.timestamp(), UTC)
    bom.metadata.component = Component(
        name=f"aurl-{name}",
        version=provenance.version(distribution(name)),
        type=ComponentType.CONTAINER,
        bom_ref=f"aurl-{name}",
        properties=[Property(name="aurl:image:reference", value=reference)],
    )
    for url in packages(archive):
        bom.components.add(
            Component(
                name=url.name, version=url.version, purl=url, bom_ref=str(url), type=ComponentType.LIBRARY
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.cdx.json"
    scratch = target.with_suffix(".part")
    scratch.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n")
    scratch.replace(target)
    return target


def packages(archive: Path) -> list[PackageURL]:
    """Return the Python packages in an image archive, except ours, and the Debian packages."""
    installed: set[tuple[str, str]] = set()
    status = ""
    with tarfile.open(archive) as image:
        for name in _manifest(archive)["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                for member in layer:
                    if match := _PYTHON.search(member.name):
                        installed.add((match[1], match[2]))
                    elif member.name.removeprefix("./") == _DPKG and not status:  # that of the base image
                        content = layer.extractfile(member)
                        status = content.read().decode() if content else ""
    return [*_python(installed), *_debian(status)]


def _python(installed: set[tuple[str, str]]) -> list[PackageURL]:
    names = sorted((re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in installed)
    return [PackageURL("pypi", None, *each) for each in names if not each[0].startswith("aurl-")]


def _debian(status: str) -> list[PackageURL]:
    """Return the packages in a dpkg database."""
    found = []
    for paragraph in filter(None, status.split("\n\n")):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " "
        )
        package, version, machine = (fields.get(key, "") for key in ("Package", "Version", "Architecture"))
        if package:
            found.append(PackageURL("deb", "debian", package, version, {"arch": machine}))
    return found


def _manifest(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as image:
        try:
            member = image.extractfile("manifest.json")
        except KeyError:
            member = None
        if member is None:
            raise ClusterError(f"{archive} is not an image archive: it has no manifest.json")
        (manifest,) = json.load(member)
    return dict(manifest)
