"""`aurl-trainer launch`: PID 1 of a pod."""

from __future__ import annotations

import argparse
import os

from aurl_trainer import logs
from aurl_trainer.launcher.environment import ContractError, read_environment
from aurl_trainer.launcher.launch import Launch, report_contract_error


def run(options: argparse.Namespace) -> int:
    """Launch `options.role` as the environment describes it and return the launcher's exit code."""
    logs.setup()
    variables = dict(os.environ)
    try:
        launch = Launch(read_environment(variables), options.role, variables)
        if options.rank_script is not None:
            launch.rank_command = (str(options.rank_script),)
        return launch.run().process_exit_code
    except ContractError as error:
        return report_contract_error(error, variables)
