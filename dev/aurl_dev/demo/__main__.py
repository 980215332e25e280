"""Run the demo, only install the operator, or delete both."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from aurl_dev.cluster import provider
from aurl_dev.demo import install, story
from aurl_dev.errors import ClusterError
from aurl_dev.waiting import DeadlineExceeded


def main() -> int:
    """Run one of the commands; a failure prints one sentence to standard error and exits with 1."""
    parser = argparse.ArgumentParser(prog="python -m aurl_dev.demo", description=__doc__)
    parser.add_argument(
        "command", nargs="?", choices=("run", "install", "down"), default="run", help="default: %(default)s"
    )
    command = parser.parse_args().command
    console = Console()
    try:
        if command == "run":
            story.run(console)
        elif command == "install":
            install.install(provider.ensure(story.CLUSTER), console.print)
        else:
            story.down(console)
    except (ClusterError, story.DemoFailed, DeadlineExceeded, RuntimeError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
