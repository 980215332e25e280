"""`make dashboards`: write the dashboards as JSON into the chart; with --check, fail if one is stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fleet import FLEET
from job import JOB_BOARD
from operator_board import OPERATOR

FOLDER = Path(__file__).resolve().parents[1] / "aurl-operator/dashboards"
BOARDS = (FLEET, JOB_BOARD, OPERATOR)


def main() -> int:
    """Write or check the dashboards; return the exit code."""
    stale = []
    for board in BOARDS:
        path = FOLDER / f"{board.uid}.json"
        text = json.dumps(board.json(), indent=2) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)}: stale, run `make dashboards`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
