"""The built images: small, labelled, without root, reproducible, with a bill of materials."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from aurl_dev.cluster import sbom
from aurl_dev.cluster.images import Image, digest_when_rebuilt

pytestmark = pytest.mark.cluster

#: Maximum size of an unpacked image in bytes.
LIMITS = {"operator": 120e6, "trainer": 1.3e9}
WORDS = ("title", "description", "licenses", "version", "revision", "created", "source")


def opened(archive: Path) -> tuple[float, dict[str, Any]]:
    """Return the total size of an image archive's layers, and its configuration."""
    with tarfile.open(archive) as image:
        (manifest,) = json.load(image.extractfile("manifest.json") or pytest.fail("no manifest"))
        document = json.load(image.extractfile(manifest["Config"]) or pytest.fail("no configuration"))
        sizes = {member.name: member.size for member in image}
    return sum(sizes[layer] for layer in manifest["Layers"]), document["config"]


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_an_image_is_small_labelled_and_runs_without_root(name: str, images: dict[str, Image]) -> None:
    size, config = opened(images[name].archive)
    assert size <= LIMITS[name], f"{size / 1e6:.0f} MB"
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [f"aurl-{name}"]
    assert all(config["Labels"].get(f"org.opencontainers.image.{word}") for word in WORDS), config["Labels"]


def test_the_same_inputs_give_the_same_digest(images: dict[str, Image]) -> None:
    first, second = digest_when_rebuilt("operator")
    assert first.startswith("sha256:")
    assert first == second


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_the_bill_of_materials_lists_the_packages(
    name: str, images: dict[str, Image], tmp_path: Path
) -> None:
    image = images[name]
    path = sbom.write(name, image.reference, image.archive, tmp_path)
    document = json.loads(path.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    urls = {component["purl"].partition("@")[0] for component in document["components"]}
    assert {"operator": "pkg:pypi/kopf", "trainer": "pkg:pypi/torch"}[name] in urls
    assert {"pkg:deb/debian/libc6", "pkg:deb/debian/libssl3"} <= urls
    assert len(urls) > 60
    first = path.read_bytes()
    assert sbom.write(name, image.reference, image.archive, tmp_path).read_bytes() == first
