"""The command line: ``python -m lenet_study COMMAND --help``."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from functools import partial

import click

from lenet_study.cli import parameters
from lenet_study.cli.commands import COMMANDS, Command
from lenet_study.errors import StudyError, UserError
from lenet_study.execution.output import drop_unwritable_output
from lenet_study.execution.signals import Stopped, stop_on_signals
from lenet_study.training.hardware import limit_spinning

SENTENCE_LIMIT = 2000  # characters


def command_line(commands: Mapping[str, Command]) -> click.Group:
    """Build the command line: every command as a subcommand."""
    group = click.Group("lenet_study", help="LeNet-5 models on Fashion-MNIST, in MLflow.")
    for name, command in commands.items():
        options: list[click.Parameter] = [*parameters.options_of(command).values()]
        call = partial(parameters.call, command)
        group.add_command(click.Command(name, callback=call, help=inspect.getdoc(command), params=options))
    return group


def main(arguments: list[str] | None = None, commands: Mapping[str, Command] = COMMANDS) -> int:
    """Run one of the commands; without arguments, take those of the process.

    Returns:
        The exit code: 0; 2 for what the user can cure; 1 for a failure of the store, the disk or the
        network; 130 and 143 when interrupted or terminated.
    """
    drop_unwritable_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    fail = partial(_fail, " ".join(arguments[:1]))
    stop_on_signals()  # so that an open run ends KILLED
    limit_spinning()
    try:
        command_line(commands).main(arguments, prog_name="python -m lenet_study", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "python -m lenet_study"
        sentence = error.format_message().rstrip(".")
        return fail(f"{sentence}{' See' if sentence.endswith('?') else '; see'} `{where} --help`.", 2)
    except UserError as error:
        return fail(f"{error}.", 2)
    except (StudyError, OSError) as error:
        return fail(f"{error}.", 1)
    except Stopped as stop:
        return fail("Interrupted; finished runs are kept, and `resume` goes on with the others.", stop.code)
    except (KeyboardInterrupt, click.Abort):
        return fail("Interrupted; finished runs are kept.", 130)
    return 0


def _fail(command: str, sentence: str, code: int) -> int:
    # The user's own words are part of it: pages of digits, line breaks, bytes that are no text.
    sentence = " ".join(sentence.split()).encode(errors="backslashreplace").decode()
    if len(sentence) > SENTENCE_LIMIT:
        sentence = f"{sentence[: SENTENCE_LIMIT // 2]} … {sentence[-SENTENCE_LIMIT // 2 :]}"
    print(f"Error: {sentence}", file=sys.stderr)
    if os.environ.get("MLFLOW_RUN_ID"):  # of `mlflow run`; a command that opens it takes it away
        from lenet_study.tracking.store import record_refusal  # noqa: PLC0415 -- takes seconds

        record_refusal(command, sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
