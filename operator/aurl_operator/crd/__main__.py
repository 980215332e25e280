"""`python -m aurl_operator.crd`: write the CRD and the job reference, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aurl_operator.api.training_schema import load_schema
from aurl_operator.crd import reference, resource


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files. With `--check`, write nothing and return 1 if one of them is stale."""
    parser = argparse.ArgumentParser(prog="aurl_operator.crd", description=__doc__)
    parser.add_argument("--output-crd", type=Path, default=Path("charts/aurl-operator/files/crd.yaml"))
    parser.add_argument("--output-docs", type=Path, default=Path("docs"), help="directory of the reference")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    options = parser.parse_args(arguments)
    roots = resource.tree(load_schema())
    files = {options.output_crd: resource.to_yaml(resource.crd(roots))}
    pages = reference.pages(roots.spec, roots.status)
    files |= {options.output_docs / name: text for name, text in pages.items()}
    stale = False
    for path, text in files.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            stale = True
            print(f"{path} is stale: run `make generate`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
