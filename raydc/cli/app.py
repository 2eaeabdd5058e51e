"""What all commands share: the group, options, how errors end, how a spec becomes a job."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from raydc.errors import RaydcError, RunError, SpecError

if TYPE_CHECKING:
    from raydc.job import Job
    from raydc.spec.sections import Spec

SPEC = click.argument("spec", metavar="SPEC", type=click.Path(dir_okay=False))
SET = click.option(
    "--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a field of the spec."
)
ADDRESS = click.option(
    "--address",
    help="Ray cluster: host:port, ray://host:port or auto. Default: RAY_ADDRESS, else a Ray of its own.",
)
RESUME = click.option("--resume", is_flag=True, help="Go on with the run of this name.")
NEW = click.option(
    "--new", is_flag=True, help="Start again; the run of this name is kept beside the new one."
)
FORK = click.option(
    "--fork", metavar="RUN[:STEP]", help="Start a new run with the weights of another one."
)
ALIAS = click.option("--alias", help="Alias to move. Default: serve.alias of the spec.")
WHY = click.option("--why", default="", help="Reason, for the history.")


def report(line: str) -> None:
    """Prints a line of progress."""
    click.echo(line)
    sys.stdout.flush()


class Commands(click.Group):
    """Turns deliberate errors into one message and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RaydcError as error:
            _fail(error)
        except OSError as error:
            place = error.filename or "storage"
            _fail(
                RunError(
                    f"{place}: {error.strerror or error}",
                    "Is there space, and may this user write there?",
                )
            )
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _fail(error: RaydcError) -> None:
    lines = str(error).splitlines()
    if isinstance(error, SpecError):
        lines.append(f"  {len(error.problems)} problem(s) in the spec; nothing was started.")
    click.echo(click.style("error: ", fg="red", bold=True, reset=True) + "\n".join(lines), err=True)
    sys.exit(error.exit_code)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="raydc")
def main() -> None:
    """From a data set to an answering endpoint: one YAML file, on a laptop or on a Ray cluster."""


def load(path: str, overrides: tuple[str, ...]) -> Spec:
    """Reads a spec with its overrides."""
    from raydc import spec

    return spec.load(path, overrides)


def open_job(path: str, overrides: tuple[str, ...], address: str | None) -> Job:
    """Reads a spec and connects to Ray."""
    from raydc import job

    return job.open_job(load(path, overrides), address, report)
