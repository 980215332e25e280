"""Install Python distributions into a virtual environment and prune it; runs inside an image build.

    install.py dependencies VENV LOCK      the pinned dependencies: slow to install, rarely changed
    install.py package VENV SOURCE ROOT    one distribution, as files below ROOT to be copied to /

Wheels come from /wheels if it is mounted and filled (offline), else from pip's index. The same inputs give
the same files: one process compiles bytecode in a fixed order with a fixed hash seed.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

WHEELS = Path("/wheels")

# The start of the value of `cuda` in torch/version.py, by VARIANT.
BUILDS = {"cpu": "None", "cuda": "'"}

# Used only to compile C++ extensions, for which the image has no compiler.
PRUNED = (
    "torch/include",
    "torch/share",
    "torch/test",
    "torch/lib/*.a",
    "torch/bin/*Test",
    "torch/bin/*_v[0-9]*",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/bin/upgrader_models",
    "**/tests",
)

# Modules that a training run does not import, half of all code: kept as source.
NOT_COMPILED = re.compile(
    r"site-packages/(torch/(_inductor|onnx|testing/_internal)|sympy|networkx|setuptools)/"
    r"|/python3[.0-9]*/(test|idlelib|lib2to3|tkinter|turtledemo|ensurepip|dist-packages)/"
)

QUIETLY: dict[str, Any] = {
    "quiet": 2,
    "force": True,
    "invalidation_mode": py_compile.PycInvalidationMode.UNCHECKED_HASH,
}


def main(argv: list[str]) -> None:
    """Run the step named by the first word."""
    what, venv = argv[0], Path(argv[1])
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Bytecode contains sets in hash order; and all bytecode is compiled below.
        fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **fixed})
    python = venv / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", venv], check=True)
    if what == "dependencies":
        pip(python, ["install", "-r", argv[2]])
        check_variant(venv, os.environ.get("VARIANT", ""))
        prune(venv)
        compile_all(venv)
        # The base image may have the standard library as source only.
        compileall.compile_dir(sysconfig.get_path("stdlib"), rx=NOT_COMPILED, **QUIETLY)
    elif what == "package":
        # Unlike --prefix, --root keeps the final paths inside the files.
        root = Path(argv[3])
        pip(python, ["install", "--no-deps", "--root", str(root), argv[2]])
        compile_all(root / venv.relative_to("/"), stripped=str(root))
    else:
        raise SystemExit(f"unknown step {what}")


def check_variant(venv: Path, variant: str) -> None:
    """Fail if pip has installed another build of PyTorch; both builds have the version in the lock file."""
    if not variant:
        return
    if variant not in BUILDS:
        raise SystemExit(f"VARIANT is {variant!r}; it must be cpu or cuda")
    for version in venv.glob("lib/python3*/site-packages/torch/version.py"):
        found = re.search(r"^cuda\b[^=]*= (.*)$", version.read_text(), re.MULTILINE)
        if found is None or not found[1].startswith(BUILDS[variant]):
            raise SystemExit(
                f"VARIANT is {variant}, but pip installed another build of PyTorch: pass its index "
                "with --build-arg PIP_EXTRA_INDEX_URL=…, or choose the other VARIANT"
            )


def pip(python: Path, words: list[str]) -> None:
    """Run pip; offline, straight from its mounted wheel."""
    offline = sorted(WHEELS.glob("pip-*.whl"))
    if offline:
        command = [str(python), str(offline[-1] / "pip")]
        words = [*words, "--no-index", "--find-links", str(WHEELS)]
        environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)}
    else:
        command = [sys.executable, "-m", "pip", "--python", str(python)]
        environment = dict(os.environ)
    options = ["--no-cache-dir", "--no-compile", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([*command, *words, *options, "--no-warn-script-location"], check=True, env=environment)


def prune(venv: Path) -> None:
    """Delete files that no running job reads."""
    for site in venv.glob("lib/python3*/site-packages"):
        for pattern in PRUNED:
            for found in list(site.glob(pattern)):
                if found.is_dir():
                    shutil.rmtree(found, ignore_errors=True)  # may be inside a deleted directory
                else:
                    found.unlink()


def compile_all(venv: Path, stripped: str | None = None) -> None:
    """Compile bytecode now: the image's file system is read-only later, and start-up must be fast.

    Python does not check it against the date or content of its source, so copies cannot outdate it.
    """
    for package in sorted(venv.glob("lib/python3*/site-packages/*")):
        if package.is_dir():
            compileall.compile_dir(package, rx=NOT_COMPILED, stripdir=stripped, **QUIETLY)
        elif package.suffix == ".py":
            compileall.compile_file(package, stripdir=stripped, **QUIETLY)


if __name__ == "__main__":
    main(sys.argv[1:])
