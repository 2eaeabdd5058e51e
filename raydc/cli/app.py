"""Shared parts of all commands: the group, options, error output, and the connection to Ray."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from raydc import quick_imports
from raydc.cli import failures, process
from raydc.engine import interruption
from raydc.errors import RaydcError, SpecError, first_line

if TYPE_CHECKING:
    from raydc.run_context import RunContext
    from raydc.spec import ResolvedSpec
    from raydc.spec.sections import Spec

# Key in the context of click for the spec file of this command and its overrides.
_LOADED = "raydc.loaded"
# What a training needs, what draws the points of a sweep, and what Ray Serve needs. Nothing of Ray,
# which starts beside their import: see `quick_imports.beside`.
_OF_TRAINING = ("raydc.models.networks", "raydc.loop.worker", "pandas")
_OF_SWEEP = ("raydc.elastic.trial_sizes",)
_OF_DRAWS = {
    "quasi_random": "scipy.stats",
    **dict.fromkeys(("tpe", "gp", "cmaes", "nsga2"), "optuna"),
}
_OF_SERVE = ("fastapi",)
# Ray's start imports for about so long, and then waits for processes.
_RAY_WORKS_S = 0.6
SPEC = click.argument("spec", metavar="SPEC", type=click.Path(dir_okay=False))
SET = click.option(
    "--set",
    "overrides",
    metavar="PATH=VALUE",
    multiple=True,
    help="Override a field of the spec, such as train.epochs=3. May be repeated.",
)
ADDRESS = click.option(
    "--address",
    help="Ray cluster: host:port, ray://host:port or auto. "
    "Default: RAY_ADDRESS, else a local Ray for this command.",
)
# Commands that only look for an endpoint start no Ray.
RUNNING = click.option(
    "--address",
    help="Ray cluster: host:port, ray://host:port or auto. "
    "Default: RAY_ADDRESS, else a Ray that runs on this machine.",
)
DASHBOARD = click.option(
    "--dashboard", is_flag=True, help="Start the dashboard of a local Ray, and print its address."
)
RESUME = click.option("--resume", is_flag=True, help="Continue the run of this name.")
NEW = click.option(
    "--new",
    is_flag=True,
    help="Start a new run of this name; the existing one is renamed to NAME.1.",
)
FORK = click.option(
    "--fork", metavar="RUN[:STEP]", help="Start a new run with the weights of another run."
)
ALIAS = click.option("--alias", help="Alias of the model. Default: serve.alias of the spec.")
WHY = click.option("--why", default="", help="Reason, for the history of the model.")
STORAGE = click.option(
    "--storage",
    default="store",
    show_default=True,
    metavar="DIR|URI",
    help="The storage of the specs.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def report(line: str) -> None:
    """Prints a line of progress."""
    click.echo(line)
    # Flushed at once, because a pipe is buffered.
    sys.stdout.flush()


class Commands(click.Group):
    """Turns deliberate errors into one message and their exit code."""

    # In the order of the help page.
    sections: dict[str, list[click.Command]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sections = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Adds commands under a title of the help page, in this order."""
        self.sections[title] = list(commands)
        for command in commands:
            self.add_command(command)

    def main(self, args: Any = None, *arguments: Any, **options: Any) -> Any:
        # A test or a program that passes arguments keeps its own streams, signals and process.
        if args is not None:
            return super().main(args, *arguments, **options)
        command = super().main
        return process.run(lambda: command(None, *arguments, **options))

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Parses the arguments; an interruption meanwhile would be an abort of click."""
        try:
            return super().make_context(*arguments, **options)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(interruption.exit_code(interruption.received() or signal.SIGINT))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # An import that is interrupted may fail in any way, or go on as if nothing was.
            number = interruption.received()
            if number is not None and not isinstance(error, click.exceptions.Exit):
                _end_interrupted(ctx, number, [f"then {first_line(error)}"])
            self._explain(error, ctx)
            raise
        except SystemExit as error:
            # No command calls it: it comes from the code of a model, or of a library below it.
            _fail(failures.foreign_exit(error))
        except KeyboardInterrupt as error:
            number = interruption.received()
            if number is None and interruption.is_catching():
                _fail(failures.foreign_exit(error))
            _end_interrupted(ctx, number or signal.SIGINT, getattr(error, "__notes__", []))

    @staticmethod
    def _explain(error: Exception, ctx: click.Context) -> None:
        """Ends the process with the message of an error that has one."""
        if isinstance(error, RaydcError):
            _fail(_with_places(error, ctx))
        # A full disk or a missing permission is for the user to fix, so there is no traceback.
        if isinstance(error, OSError):
            _fail(failures.os_error(error, f"raydc {ctx.invoked_subcommand}"))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        # Click sorts by name; these are in the order of their use.
        return list(self.commands)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Writes the commands by section, all in columns of the same width."""
        width = max(map(len, self.commands), default=0)
        for title, commands in self.sections.items():
            with formatter.section(title):
                limit = formatter.width - 6 - width
                formatter.write_dl(
                    [
                        ((command.name or "").ljust(width), command.get_short_help_str(limit))
                        for command in commands
                    ]
                )


def _end_interrupted(ctx: click.Context, number: int, notes: list[str]) -> NoReturn:
    click.echo("; ".join(["interrupted", *notes]), err=True)
    ctx.exit(interruption.exit_code(number))


def _with_places(error: RaydcError, ctx: click.Context) -> RaydcError:
    """Gives the problems of a spec their lines, where a later stage has found them."""
    loaded = ctx.find_root().meta.get(_LOADED)
    if not isinstance(error, SpecError) or loaded is None:
        return error
    from raydc import spec

    return spec.add_places(error, *loaded)


def _fail(error: RaydcError) -> None:
    lines = str(error).splitlines()
    if isinstance(error, SpecError):
        # The count comes last, after a line for each problem.
        lines.append(f"  {len(error.problems)} problem(s) in the spec; no run was begun.")
    click.echo(click.style("error: ", fg="red", bold=True, reset=True) + "\n".join(lines), err=True)
    sys.exit(error.exit_code)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="raydc")
def main() -> None:
    """From a data set to an answering endpoint: one YAML file, on a laptop or on a Ray cluster."""


def load(path: str, overrides: tuple[str, ...]) -> Spec:
    """Reads a spec with its overrides. Raises SpecError."""
    from raydc import spec

    # Kept, so that a problem that is found later can be shown with its place.
    click.get_current_context().find_root().meta[_LOADED] = (path, overrides)
    return spec.load(path, overrides)


def resolve(path: str, overrides: tuple[str, ...]) -> ResolvedSpec:
    """Reads a spec with its overrides and fills in its defaults. Raises SpecError."""
    from raydc import spec

    return spec.resolve(load(path, overrides))


def imports_of(spec: ResolvedSpec, sweeps: bool = False, serves: bool = False) -> tuple[str, ...]:
    """Modules that a command needs which trains, for `open_context`.

    Args:
        spec: Resolved spec of the command.
        sweeps: Whether it takes the section `sweep`, if there is one.
        serves: Whether it takes the section `serve`.
    """
    names: tuple[str, ...] = _OF_TRAINING
    if sweeps and spec.sweep is not None:
        draws = _OF_DRAWS.get(spec.sweep.search_alg)
        names += _OF_SWEEP if draws is None else (*_OF_SWEEP, draws)
    return names + _OF_SERVE if serves and spec.serve is not None else names


def open_context(
    path: str,
    overrides: tuple[str, ...],
    address: str | None,
    dashboard: bool = False,
    deferred: bool = False,
    imports: tuple[str, ...] = (),
) -> RunContext:
    """Reads a spec and connects to Ray.

    Args:
        path: Path of the spec file.
        overrides: `PATH=VALUE` of each `--set`.
        address: Ray cluster; None takes RAY_ADDRESS, else starts a local Ray.
        dashboard: Start the dashboard of a local Ray.
        deferred: Start a local Ray only when something needs it.
        imports: Modules that are imported beside the start of Ray, for which this process mostly
            waits. If that is deferred, they are imported when something needs them.

    Raises:
        SpecError: The spec has problems.
        ClusterError: No cluster at the address, or one that is too small for the spec.
        UsageError: Storage that not every node can reach, or a dashboard of a cluster.
    """
    from raydc import run_context

    given = load(path, overrides)
    with quick_imports.beside(*(() if deferred else imports), after_s=_RAY_WORKS_S):
        return run_context.open_context(given, address, report, dashboard, deferred)
