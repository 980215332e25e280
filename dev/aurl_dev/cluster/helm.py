"""Helm through PyPI's helm-python-sdk, each call in a separate process.

The library is written in Go; its network calls hang in a process that has forked, as test runners do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aurl_dev.cluster.paths import CHECKOUT
from aurl_dev.errors import ClusterError

Values = dict[str, Any]
#: Seconds that an action may wait for workloads to become ready, or to be gone.
WAIT_SECONDS = 120


class HelmError(ClusterError):
    """A Helm action failed."""

    def __init__(self, action: str, subject: str, message: str) -> None:
        super().__init__(f"helm {action} {subject}: {message}")


def install(
    kubeconfig: Path, release: str, chart: Path, namespace: str, values: Values | None = None
) -> None:
    """Install a release, or upgrade it if it exists; waits until its workloads are ready."""
    place = {"kubeconfig": kubeconfig, "namespace": namespace}
    _call("install", release, chart=chart, values=values or {}, **place)


def uninstall(kubeconfig: Path, release: str, namespace: str) -> None:
    """Uninstall a release unless it is gone."""
    _call("uninstall", release, kubeconfig=kubeconfig, namespace=namespace)


def rollback(kubeconfig: Path, release: str, namespace: str, revision: int) -> None:
    """Roll a release back to an earlier revision; waits until its workloads are ready."""
    place = {"kubeconfig": kubeconfig, "namespace": namespace}
    _call("rollback", release, revision=revision, **place)


def test(kubeconfig: Path, release: str, namespace: str) -> str:
    """Run the release's own tests and return the logs of their pods; raises when one fails."""
    return str(_call("test", release, kubeconfig=kubeconfig, namespace=namespace))


def would_install(kubeconfig: Path, chart: Path, namespace: str, many: dict[str, Values]) -> dict[str, str]:
    """Return the manifest that Helm would send to this cluster, for each of several sets of values.

    Unlike `render`, this asks the cluster for its version and for the kinds it knows.
    """
    place = {"kubeconfig": kubeconfig, "namespace": namespace}
    return dict(_call("would_install", str(chart), chart=chart, many=many, **place))


def lint(chart: Path, values: Values | None = None) -> None:
    """Check a chart strictly; raise with what is wrong."""
    _call("lint", str(chart), chart=chart, values=values or {})


def render(
    chart: Path, values: Values | None = None, release: str = "aurl", namespace: str = "default"
) -> str:
    """Return the manifests of a chart as YAML."""
    given = values or {}
    return str(_call("render", str(chart), chart=chart, values=given, release=release, namespace=namespace))


def _call(action: str, subject: str, **arguments: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "dev")}
    timeout = WAIT_SECONDS + 60
    arguments = {"release": subject, **arguments}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "aurl_dev.cluster.helm", action],
            input=json.dumps(arguments, default=str),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HelmError(action, subject, f"no answer after {timeout} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise HelmError(action, subject, "\n".join(lines[-15:]))
    return json.loads(done.stdout)["result"]


# -- in the child -----------------------------------------------------------------------------------------


def _config(arguments: Values) -> Any:
    """Return Helm's configuration for one namespace of the cluster."""
    from helm_python import Config

    return Config(kubeconfig_path=arguments["kubeconfig"], namespace=arguments["namespace"])


def _install(arguments: Values) -> None:
    from helm_python import HelmNotFoundError

    config = _config(arguments)
    release, chart, values = arguments["release"], arguments["chart"], arguments["values"]
    options = {"namespace": arguments["namespace"], "timeout": WAIT_SECONDS, "wait": "legacy"}
    try:
        state = _state(config.status(release))
    except HelmNotFoundError:
        state = None
    if state is not None and state != "deployed" and not _ever_deployed(config.history(release)):
        # The first install failed or was interrupted; Helm refuses to upgrade a release never deployed.
        config.uninstall(release, ignore_not_found=True)
        state = None
    elif state is not None and state.startswith("pending"):
        # An interrupted upgrade holds Helm's lock; a rollback releases it.
        config.rollback(release, timeout=WAIT_SECONDS)
    if state is None:
        config.install(chart, release, values, create_namespace=True, **options)
    else:
        config.upgrade(chart, release, values, reset_values=True, **options)


def _state(release: Values) -> str:
    found = release.get("status") or release.get("info", {}).get("status") or "unknown"
    return str(found)


def _ever_deployed(history: list[Values]) -> bool:
    return any(_state(revision) in {"deployed", "superseded"} for revision in history)


def _uninstall(arguments: Values) -> None:
    config = _config(arguments)
    config.uninstall(arguments["release"], ignore_not_found=True, wait="legacy", timeout=WAIT_SECONDS)


def _rollback(arguments: Values) -> None:
    config = _config(arguments)
    config.rollback(arguments["release"], version=arguments["revision"], timeout=WAIT_SECONDS, wait="legacy")


def _test(arguments: Values) -> str:
    config = _config(arguments)
    done = config.test(arguments["release"], timeout=WAIT_SECONDS, logs=True)
    return str(done["logs"])


def _would_install(arguments: Values) -> dict[str, str]:
    from helm_python import Chart

    namespace, config = arguments["namespace"], _config(arguments)
    chart = Chart.load(arguments["chart"])
    return {
        name: str(config.install(chart, "aurl", values, namespace=namespace, dry_run="server")["manifest"])
        for name, values in arguments["many"].items()
    }


def _lint(arguments: Values) -> None:
    from helm_python import lint

    report = lint(arguments["chart"], arguments["values"], strict=True)
    bad = [message for message in report.get("messages") or [] if message["severity"] >= 2]
    trouble = [f"{message['path']}: {message['error']}" for message in bad]
    trouble += [str(error) for error in report.get("errors") or [] if not bad]
    if trouble:
        sys.exit("\n".join(trouble))


def _render(arguments: Values) -> str:
    from helm_python import Chart

    chart = Chart.load(arguments["chart"])
    release, namespace = arguments["release"], arguments["namespace"]
    files = chart.render(arguments["values"], name=release, namespace=namespace)
    return "".join(f"---\n# Source: {name}\n{text.strip()}\n" for name, text in files.items() if text.strip())


_ACTIONS: dict[str, Callable[[Values], Any]] = {
    "install": _install,
    "rollback": _rollback,
    "test": _test,
    "would_install": _would_install,
    "uninstall": _uninstall,
    "lint": _lint,
    "render": _render,
}


def _main() -> None:
    import helm_python

    action, arguments = sys.argv[1], json.loads(sys.stdin.read())
    try:
        result = _ACTIONS[action](arguments)
    except helm_python.HelmError as error:
        sys.exit(str(error))
    print(json.dumps({"result": result}))


if __name__ == "__main__":
    _main()
