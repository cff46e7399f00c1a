"""Entry point: a group whose commands are imported when called, and the mapping of errors to exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

from innerq_export import __version__
from innerq_export.errors import UserError, nearest

COMMANDS = {
    "plan": "Say what a build will take, from headers alone",
    "build": "Checkpoint to a checked engine folder",
    "calibrate": "Learn a model's key normalisation from a text, to be folded into its weights",
    "run": "Generate text from an engine folder",
    "parity": "Prove that an engine says what PyTorch says",
    "inspect": "Show what is in an engine folder",
    "plugin": "Build the CUDA kernels and the TensorRT plugin",
    "doctor": "Examine this machine, the plugin library and a model's nodes",
    "triton": "Write a Triton model repository for an engine folder",
    "bench": "Measure the kernels against the memory and their peers",
    "eval": "Measure what the cache costs a model's text, beside other methods",
}
CANCELLED = 130
_MENDS = {
    errno.ENOSPC: "make room on that disk, or name another place",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENOENT: "look whether it is there",
}


class LazyGroup(click.Group):
    """Lists commands without importing them, so that --help needs neither torch nor TensorRT."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a user's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module `cli.<name>` and return its `command`; a typo gets the nearest name."""
        if name not in COMMANDS:
            ctx.fail(f"unknown command '{name}'; {nearest(name, COMMANDS)}")
        return importlib.import_module(f"innerq_export.cli.{name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table above, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="innerq-export")
def cli() -> None:
    """Llama-type models with a KV cache of about 3.5 bits: export, build, run, prove.

    Exit codes: 0 ok, 1 user or configuration error, 2 usage, 3 parity failed, 4 environment mismatch,
    5 out of memory (predicted or met), 130 cancelled.
    """


def main() -> None:
    """Run the command line; a user's mistake ends with its fix, never with a traceback."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(_cancelled())
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_cancelled())
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except MemoryError:
        click.echo(
            "error: out of memory\n  fix:      a smaller --max-context or --max-batch, or a larger machine", err=True
        )
        sys.exit(5)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: {_of_the_system(error)}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _of_the_system(error: OSError) -> str:
    """Return what the system refused: a full disk, a folder without rights, a file that went away meanwhile."""
    place = error.filename if error.filename is not None else "stdout, or a file that was being written"
    return f"{place}: {error.strerror or error}\n  fix:      {_MENDS.get(error.errno or 0, 'name another place')}"


def _cancelled() -> int:
    click.echo("cancelled", err=True)
    return CANCELLED


if __name__ == "__main__":
    main()
