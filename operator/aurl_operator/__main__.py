"""`python -m aurl_operator`."""

import sys

from aurl_operator.main import main

if __name__ == "__main__":
    sys.exit(main())
