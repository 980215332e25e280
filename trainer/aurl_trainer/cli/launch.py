"""`aurl-trainer launch`: PID 1 of a pod."""

from __future__ import annotations

import os
from pathlib import Path

from aurl_trainer import logs
from aurl_trainer.launcher.environment import ContractError, read_environment
from aurl_trainer.launcher.launch import Launch, report_contract_error
from aurl_trainer.launcher.progress import Role


def run(role: Role, rank_script: Path | None) -> int:
    """Launch `role` as the environment says; returns the exit code of docs/contracts.md."""
    logs.setup()
    variables = dict(os.environ)
    try:
        launch = Launch(read_environment(variables), role, variables)
        if rank_script is not None:
            launch.rank_command = (str(rank_script),)
        return launch.run().process_exit_code
    except ContractError as error:
        return report_contract_error(error, variables)
