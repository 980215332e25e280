"""`make screenshots`: draw the dashboards from recorded Prometheus data, into docs/images.

    AURL_KEEP_PROMETHEUS=build/prometheus make e2e
    make screenshots PROMETHEUS=build/prometheus

Grafana's own panels (npm: @grafana/ui) draw them in headless Chromium, without a Grafana server.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aurl_dev.chromium import FLAGS
from aurl_dev.cluster import system
from aurl_dev.cluster.paths import CHART, CHECKOUT
from aurl_dev.prometheus import Prometheus, serving

HERE = Path(__file__).parent
DASHBOARDS = CHART / "dashboards"
IMAGES = CHECKOUT / "docs/images"
POINTS = 240
#: Pixels of the layout in render.tsx.
WIDTH, ROW_HEIGHT, HEADING = 1592, 34, 64


@contextmanager
def recorded(data: Path) -> Iterator[Prometheus]:
    """Serve a copy of the data that another Prometheus has left in a directory."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(data / "data", Path(scratch) / "data", ignore=shutil.ignore_patterns("lock"))
        with serving(
            Path(scratch), {"scrape_configs": []}, "--storage.tsdb.retention.time=10y"
        ) as prometheus:
            yield prometheus


def stretch(prometheus: Prometheus, series: str) -> tuple[float, float]:
    """Return when a series was first and last scraped."""
    now = time.time()
    found = prometheus.over(f"count_over_time({series}[2m])", now - 7 * 86400, now, step=60)
    times = [time for each in found for time, _ in each["values"]]
    if not times:
        raise SystemExit(f"the recorded data has no series {series}: record a run that has it (see --help)")
    # The times of samples: a query repeats the last one for five minutes.
    close = prometheus.over(f"timestamp({series})", min(times) - 120, max(times) + 60, step=2)
    times = [float(text) for each in close for _, text in each["values"]]
    return min(times), max(times)


def answers(
    prometheus: Prometheus, dashboard: dict[str, Any], choices: dict[str, str], begin: float, end: float
) -> dict[int, list[dict[str, Any]]]:
    """Return the results of the queries of each panel."""
    found: dict[int, list[dict[str, Any]]] = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in choices.items():
                expression = expression.replace(f"${name}", value)
            at, until = (end, end) if target["instant"] else (begin, end)
            step = max((end - begin) / POINTS, 1.0)
            series = prometheus.over(expression, at, until, step)
            found.setdefault(panel["id"], []).append({"legend": target["legendFormat"], "series": series})
    return found


def bundle(place: Path) -> None:
    """Install Grafana's components if they are missing, and bundle the page."""
    if not (HERE / "node_modules/@grafana/ui").exists():
        print("installing Grafana's components from npm (a minute)", flush=True)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    command = [
        *("node_modules/.bin/esbuild", "render.tsx", "--bundle", f"--outfile={place / 'bundle.js'}"),
        *("--format=iife", "--platform=browser", "--define:global=window", "--minify", "--loader:.css=empty"),
        *('--define:process.env.NODE_ENV="production"', "--loader:.svg=dataurl", "--log-level=warning"),
    ]
    subprocess.run(command, cwd=HERE, check=True)
    shutil.copy(HERE / "node_modules/uplot/dist/uPlot.min.css", place / "bundle.css")


def photograph(place: Path, dashboard: dict[str, Any], image: Path) -> None:
    """Draw the page in `place` with Chromium and save it."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    size = f"{WIDTH},{bottom * ROW_HEIGHT + HEADING}"
    handler = functools.partial(Quiet, directory=str(place))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    *("chromium", *FLAGS, f"--user-data-dir={profile}", f"--window-size={size}"),
                    *("--virtual-time-budget=8000", f"--screenshot={image}"),
                    f"http://127.0.0.1:{server.server_port}/",
                ],
                check=True,
                capture_output=True,
                timeout=120,
            )
    finally:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files without logging."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def main() -> None:
    """Draw all dashboards."""
    parser = argparse.ArgumentParser(
        prog="python -m aurl_dev.screenshots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--prometheus", type=Path, required=True, help="directory recorded with AURL_KEEP_PROMETHEUS"
    )
    parser.add_argument("--job", default="struck", help="job shown on the dashboard Job")
    options = parser.parse_args()
    system.ensure(("prometheus", "chromium"), print)
    with recorded(options.prometheus) as prometheus, tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        bundle(place)
        for path in sorted(DASHBOARDS.glob("*.json")):
            dashboard = json.loads(path.read_text())
            about_job = path.stem == "aurl-job"
            series = (
                f'aurl_train_state{{training_job="{options.job}"}}' if about_job else "aurl_operator_leader"
            )
            begin, end = stretch(prometheus, series)
            job = options.job if about_job else ".*"
            choices = {"namespace": ".*", "job": job, "rank": ".*", "__rate_interval": "20s"}
            data = {
                "dashboard": dashboard,
                "answers": answers(prometheus, dashboard, choices, begin, end),
                "from": begin,
                "to": end,
                "dark": True,
            }
            (place / "data.js").write_text(f"window.AURL = {json.dumps(data)};")
            page = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="bundle.css">'
            # The needed part of Grafana's global style.
            page += "<style>button { color: inherit; background: none; border: 0; font: inherit }</style>"
            page += '<body style="margin:0"><div id="root"></div>'
            scripts = '<script src="data.js"></script><script src="bundle.js"></script>'
            (place / "index.html").write_text(page + scripts)
            image = IMAGES / f"dashboard-{path.stem.removeprefix('aurl-')}.png"
            photograph(place, dashboard, image)
            print(f"written to {image.relative_to(CHECKOUT)}", flush=True)


if __name__ == "__main__":
    main()
