"""Build the Kubernetes daemons from Debian's source package, once, in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path

from aurl_dev.cluster import aptsource, system
from aurl_dev.cluster.paths import Echo, cache_dir, lock
from aurl_dev.cluster.shell import run, run_long
from aurl_dev.errors import ClusterError

VERSION = "1.20.2"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")

GO = Path("/usr/lib/go-1.19/bin/go")
REFLECT2 = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")

# Packages are stamped at their vendored path. `--version` comes from component-base, the API server's
# /version from client-go; unstamped it is v0.0.0, and Helm's check of kubeVersion fails.
_VERSION_PACKAGES = ("component-base/version", "client-go/pkg/version")
_STAMPS = {
    "gitVersion": f"v{VERSION}",
    "gitMajor": VERSION.split(".")[0],
    "gitMinor": VERSION.split(".")[1],
}
LDFLAGS = " ".join(
    [
        "-s -w",
        *(
            f"-X k8s.io/kubernetes/vendor/k8s.io/{package}.{name}={value}"
            for package in _VERSION_PACKAGES
            for name, value in _STAMPS.items()
        ),
    ]
)

# Everything that affects the result. Increase `revision` when the steps below change.
RECIPE = {
    "version": VERSION,
    "components": COMPONENTS,
    "go": str(GO),
    "ldflags": LDFLAGS,
    "replaced": {"vendor/github.com/modern-go/reflect2": str(REFLECT2)},
    "revision": 1,
}


def recipe_hash() -> str:
    """Return the short hash under which the cache keeps this recipe's results."""
    return hashlib.sha256(json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()[:12]


def ensure(echo: Echo) -> Path:
    """Return the directory of the daemons; builds them if the cache has none."""
    home = cache_dir() / "kubernetes"
    target = home / f"{VERSION}-{recipe_hash()}"
    if target.is_dir():
        return target
    with lock(home / "build.lock", "Kubernetes build", echo):
        if not target.is_dir():
            _build(home, target, echo)
    return target


def _build(home: Path, target: Path, echo: Echo) -> None:
    began = time.monotonic()
    system.ensure(system.GO_BUILD, echo)
    work = home / "work"
    echo(f"Kubernetes {VERSION}: building from Debian's source package (about 5 minutes, once per machine)")
    tree = _unpack(work, echo)
    env = {
        "GOPATH": str(work / "gopath"),
        # Go's own cache survives an interruption, so a second attempt continues where the first stopped.
        "GOCACHE": str(home / "gocache"),
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
        "GOFLAGS": "",
        "GOROOT": str(GO.parents[1]),
    }
    _generate_openapi(tree, env, echo)
    packages = [f"./cmd/{name}" for name in COMPONENTS]
    total = len(run([GO, "list", "-deps", *packages], cwd=tree, env=env).splitlines())
    out = work / "bin"
    out.mkdir(exist_ok=True)
    run_long(
        ["nice", GO, "build", "-v", "-trimpath", "-ldflags", LDFLAGS, "-o", f"{out}/", *packages],
        f"Kubernetes {VERSION}: compiling",
        echo,
        cwd=tree,
        env=env,
        fraction=lambda lines: lines / total,
    )
    for name in COMPONENTS:
        said = run([out / name, "--version"]).strip()
        if said != f"Kubernetes v{VERSION}":
            raise ClusterError(f"{name} was built, but reports version {said!r} instead of v{VERSION}")
    out.replace(target)
    shutil.rmtree(work)
    shutil.rmtree(home / "gocache", ignore_errors=True)
    echo(f"Kubernetes {VERSION}: built in {time.monotonic() - began:.0f} s, kept in {target}")


def _unpack(work: Path, echo: Echo) -> Path:
    # The tree must be at its import path below GOPATH: module mode rejects its old go.mod.
    tree = work / "gopath" / "src" / "k8s.io" / "kubernetes"
    if (tree / ".unpacked").exists():
        return tree
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tarball = aptsource.download("kubernetes", work, echo)
    found = re.search(r"_(?:.*\+really)?([0-9.]+)\.orig\.", tarball.name)
    if found is None or found[1] != VERSION:
        raise ClusterError(
            f"apt offers {tarball.name}, but this build needs Kubernetes {VERSION} (Debian 12)"
        )
    tree.mkdir(parents=True)
    run_long(
        ["tar", "-xf", tarball, "-C", tree, "--strip-components=1", "--no-same-owner"],
        "Kubernetes source: unpacking",
        echo,
    )
    # reflect2 1.0.1 reads the runtime's maps in a way that Go ≥ 1.18 breaks: the API server crashes with
    # SIGSEGV at the first custom resource. Debian ships the fixed release.
    vendored = tree / "vendor" / "github.com" / "modern-go" / "reflect2"
    shutil.rmtree(vendored)
    shutil.copytree(REFLECT2, vendored, ignore=shutil.ignore_patterns("*_test.go"))
    (tree / ".unpacked").touch()
    return tree


def _generate_openapi(tree: Path, env: dict[str, str], echo: Echo) -> None:
    """Write the OpenAPI definitions that the API server compiles in and the tarball lacks."""
    generated = tree / "pkg" / "generated" / "openapi" / "zz_generated.openapi.go"
    if generated.exists():
        return
    generator = tree / "openapi-gen"
    began = "Kubernetes source: OpenAPI definitions"
    run_long(
        ["nice", GO, "build", "-o", generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"],
        began,
        echo,
        cwd=tree,
        env=env,
    )
    output = tree / "generated"
    run_long(
        [
            *("nice", generator),
            *("--go-header-file", os.devnull),
            *("--output-base", output),
            *("--output-file-base", "zz_generated.openapi"),
            *("--output-package", "k8s.io/kubernetes/pkg/generated/openapi"),
            *("--report-filename", tree / "openapi.report"),
            *("--input-dirs", ",".join(_openapi_packages(tree))),
        ],
        began,
        echo,
        cwd=tree,
        env={**env, "PATH": f"{GO.parent}:{os.environ.get('PATH', os.defpath)}"},
    )
    made = output / "k8s.io" / "kubernetes" / "pkg" / "generated" / "openapi" / "zz_generated.openapi.go"
    made.replace(generated)


def _openapi_packages(tree: Path) -> list[str]:
    skipped = ("_examples", "sample-apiserver", "sample-controller", "code-generator", "testdata")
    files = run(
        ["grep", "-rlE", "--include=*.go", r"\+k8s:openapi-gen=", "pkg", "staging/src/k8s.io"], cwd=tree
    )
    packages = set()
    for file in files.splitlines():
        folder = str(Path(file).parent)
        if any(word in folder for word in skipped):
            continue
        packages.add("k8s.io/kubernetes/" + folder.replace("staging/src/", "vendor/", 1))
    return sorted(packages)
