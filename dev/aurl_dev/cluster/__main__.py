"""Manage clusters for development, and their images."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from aurl_dev.cluster import binaries, images, provider, sbom
from aurl_dev.cluster.paths import cache_dir, state_dir
from aurl_dev.cluster.provider import Cluster
from aurl_dev.errors import ClusterError

_BEGAN = time.monotonic()


def _echo(text: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aurl_dev.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, named: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        if named:
            added.add_argument("--name", default="aurl", help="name of the cluster (default: %(default)s)")
        return added

    up = command("up", "use the cluster of $KUBECONFIG, or start one")
    up.add_argument(
        "--kind", choices=("external", "kind", "local"), help="kind of cluster (default: automatic)"
    )
    command("down", "delete a cluster")
    command("status", "print the cluster's state as JSON; exit 1 unless it is healthy")
    command("kubeconfig", "print the path of the kubeconfig")
    made = command("images", "build the images", named=False)
    made.add_argument("images", nargs="*", default=list(images.NAMES), metavar="IMAGE")
    loaded = command("load", "build the images and load them into a cluster")
    loaded.add_argument("images", nargs="*", default=list(images.NAMES), metavar="IMAGE")
    inside = command("exec", "run a program of this machine in the network of a cluster")
    inside.add_argument("argv", nargs=argparse.REMAINDER)
    command("build", "build the Kubernetes daemons in the cache", named=False)
    purge = command("purge", "delete every cluster that this tool has created", named=False)
    purge.add_argument(
        "--cache", action="store_true", help="also delete the cache (the next start takes minutes)"
    )
    return parser


def main() -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args()
    try:
        return _run(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the command again to continue, or `down` to clean up", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "up":
            cluster = provider.ensure(options.name, _echo, options.kind)
            print(f"export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            provider.find(options.name, _echo).down()
        case "status":
            status = provider.find(options.name).status()
            print(json.dumps(status, indent=2))
            return 0 if status["healthy"] else 1
        case "kubeconfig":
            print(_kubeconfig(options.name))
        case "images":
            for image in images.build(options.images, _echo).values():
                print(image.reference)
                print(f"  bill of materials: {sbom.write(image.name, image.reference, image.archive)}")
        case "load":
            cluster = _existing(options.name)
            for image in images.load(cluster, images.build(options.images, _echo), _echo).values():
                print(image.reference)
        case "exec":
            words = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
            argv = _existing(options.name).netns_command(words)
            os.execvp(argv[0], argv)
        case "build":
            print(binaries.ensure(_echo))
        case "purge":
            _purge(options.cache)
    return 0


def _kubeconfig(name: str) -> Path:
    if provider.choose() == "external":
        return provider.ensure(name, _echo).kubeconfig
    path = provider.find(name).kubeconfig
    if not path.exists():
        raise _not_running(name)
    return path


def _existing(name: str) -> Cluster:
    if provider.choose() == "external":
        return provider.ensure(name, _echo)
    backend = provider.find(name, _echo)
    if not backend.exists():
        raise _not_running(name)
    kind = backend.status()["kind"]
    return Cluster(name, kind, backend.kubeconfig, _echo, backend)


def _not_running(name: str) -> ClusterError:
    start = f"python -m aurl_dev.cluster up --name {name}"
    return ClusterError(f"cluster {name} is not running; start it with: {start}")


def _purge(cache: bool) -> None:
    for group in ("clusters", "kind"):
        folder = state_dir() / group
        for home in sorted(folder.iterdir()) if folder.is_dir() else ():
            if home.is_dir():
                provider.find(home.name, _echo).down()
    shutil.rmtree(state_dir(), ignore_errors=True)
    if cache:
        shutil.rmtree(cache_dir(), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
