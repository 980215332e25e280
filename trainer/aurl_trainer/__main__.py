"""`aurl-trainer` and `python -m aurl_trainer`."""

import sys

from aurl_trainer.cli.main import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
