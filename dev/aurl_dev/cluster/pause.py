"""Compile the pause program and pack it as an image archive, without an image builder."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from aurl_dev.cluster import system
from aurl_dev.cluster.node import PAUSE_IMAGE
from aurl_dev.cluster.paths import CHECKOUT, Echo, cache_dir, lock
from aurl_dev.cluster.shell import run

SOURCE = CHECKOUT / "images" / "pause" / "pause.c"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def ensure(echo: Echo) -> Path:
    """Return the archive of the pause image; builds it if the cache has none for this source."""
    digest = hashlib.sha256(SOURCE.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    folder = cache_dir() / "images"
    target = folder / f"pause-{digest}.tar"
    if not target.exists():
        system.ensure(("gcc", "libc6-dev"), echo)
        with lock(folder / "pause.lock", "pause image", echo):
            program = folder / f"pause-{digest}"
            run(["gcc", "-Os", "-static", "-s", "-o", program, SOURCE])
            scratch = target.with_suffix(".tmp")
            scratch.write_bytes(archive(program.read_bytes(), PAUSE_IMAGE))
            scratch.replace(target)
            program.unlink()
    return target


def archive(program: bytes, reference: str) -> bytes:
    """Return a docker-archive of an image that holds one program, `/pause`."""
    layer = _tar({"pause": program}, mode=0o755)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "pause.c"}],
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]
    return _tar({name: text, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}, mode=0o644)


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)  # no times or owners: the same input gives the same bytes
            entry.size, entry.mode = len(content), mode
            out.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
