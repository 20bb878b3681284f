"""The command line: ``python -m lenet_study COMMAND --help``."""

from __future__ import annotations

import importlib
import os
import sys

import click

from lenet_study.cli.parameters import COMMANDS
from lenet_study.errors import JobError, StoreError, UserError
from lenet_study.execution.signals import exit_on_sigterm

MODULES = {
    "search": "lenet_study.search.driver",
    **{name: f"lenet_study.workflows.{name}" for name in COMMANDS if name != "search"},
}


def command_line() -> click.Group:
    """Every entry point as a subcommand; its module is imported when it is called, not before."""
    group = click.Group("lenet_study", help="Five LeNet-5 models on Fashion-MNIST, in MLflow.")
    for name, (meaning, parameters) in COMMANDS.items():

        def call(name: str = name, **values: object) -> None:
            importlib.import_module(MODULES[name]).main(**values)

        options: list[click.Parameter] = [parameter.option() for parameter in parameters]
        group.add_command(click.Command(name, callback=call, help=meaning, params=options))
    return group


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 2 for what the user can cure; 1 for a failure of the store, the disk or the
        network; 130 and 143 when interrupted or terminated.
    """
    exit_on_sigterm()  # so that an open run ends KILLED
    try:
        command_line().main(arguments, prog_name="python -m lenet_study", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "python -m lenet_study"
        return _fail(f"{error.format_message().rstrip('.')}; see `{where} --help`.", 2)
    except UserError as error:
        return _fail(f"{error}.", 2)
    except (JobError, StoreError, OSError) as error:
        return _fail(f"{error}.", 1)
    except (KeyboardInterrupt, click.Abort):
        return _fail("Interrupted; finished runs are kept.", 130)
    return 0


def _fail(sentence: str, code: int) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    unused = os.environ.get("MLFLOW_RUN_ID")  # of `mlflow run`; a command that opens it takes it away
    if unused:
        importlib.import_module("lenet_study.tracking.run").explain(unused, sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
