"""Entry point of `infer-cli`: the commands, and the one place where errors become a line and an exit code."""

import os
import sys
from collections.abc import Sequence

import click

from tiercel.cli.cache import cache
from tiercel.cli.chat import chat
from tiercel.cli.console import standard_consoles
from tiercel.cli.down import down
from tiercel.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CommandFailed
from tiercel.cli.generate import generate
from tiercel.cli.status import status
from tiercel.cli.trace import trace
from tiercel.cli.up import up
from tiercel.errors import TiercelError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tiercel", prog_name="infer-cli")
def infer_cli() -> None:
    """Serve language models as gRPC services with a tiered KV cache, and ask them things."""


for _command in (up, down, status, generate, chat, trace, cache):
    infer_cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    consoles = standard_consoles()
    try:
        result = infer_cli.main(args=arguments, prog_name="infer-cli", obj=consoles, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        consoles.error(_usage(error))
        return EXIT_USAGE
    except click.ClickException as error:
        consoles.error(error.format_message())
        return EXIT_FAILED
    except CommandFailed as failure:
        consoles.error(failure.message)
        return failure.exit_code
    except TiercelError as error:
        consoles.error(error.message)
        return EXIT_FAILED
    except (KeyboardInterrupt, click.Abort):
        consoles.note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the answer has enough of it. Nothing may be flushed into the broken pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx is not None else "infer-cli"
    return f"{error.format_message()} (`{command} --help` lists what is allowed)"


if __name__ == "__main__":
    raise SystemExit(main())
