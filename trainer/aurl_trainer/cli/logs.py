"""`aurl-trainer logs`: JSON log lines in a form to read."""

from __future__ import annotations

import argparse
import sys

from aurl_trainer.logs import readable


def run(_options: argparse.Namespace) -> int:
    """Print each line of standard input as `logs.readable` formats it."""
    for line in sys.stdin:
        print(readable(line), flush=True)
    return 0
