"""The torchrun agent as a process of its own: runs the ranks of this node and records how they ended.

torchrun itself always exits 1; the rank and the exit code or signal of each failure are only in its
ChildFailedError, which is caught here and written to `agent.json` for the launcher.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

from aurl_trainer import logs
from aurl_trainer.monitor.failure import one_sentence
from aurl_trainer.monitor.snapshot import write_json

log = logging.getLogger(__name__)


def run(result: Path, arguments: list[str]) -> int:
    """Run torchrun with its command-line `arguments`, write `result` and return the exit code."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    config, command, command_arguments = config_from_args(parse_args(arguments))  # type: ignore[no-untyped-call]
    try:
        elastic_launch(config, command)(*command_arguments)
    except ChildFailedError as error:
        write_json(
            result, {"failures": [_failure(rank, failure) for rank, failure in error.failures.items()]}
        )
        return 1
    except Exception as error:
        write_json(result, {"error": one_sentence(f"{type(error).__name__}: {error}")})
        log.error("torchrun agent failed", exc_info=True)
        return 1
    write_json(result, {"failures": []})
    return 0


def _failure(rank: int, failure: Any) -> dict[str, int]:
    return {"rank": rank, "localRank": failure.local_rank, "pid": failure.pid, "exitCode": failure.exitcode}


def prefer_as_victim() -> None:
    """Make the OOM killer prefer this process and the ranks, which inherit the score, to the launcher."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    logs.setup()
    prefer_as_victim()
    raise SystemExit(run(Path(sys.argv[1]), sys.argv[2:]))
