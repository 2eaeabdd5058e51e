"""The command line. Every command is a stage, `run` is all of them; the exit codes are those of `raydc.errors`."""

from raydc.cli import canary, endpoint, show, stages, token
from raydc.cli.app import main

__all__ = ["main"]

# In the order of the help page.
for command in (
    stages.run,
    show.validate,
    show.plan,
    stages.prepare,
    stages.train,
    stages.sweep,
    stages.evaluate,
    endpoint.serve,
    endpoint.predict,
    endpoint.promote,
    endpoint.rollback,
    canary.canary,
    canary.shadow,
    token.token,
    stages.chaos,
    show.runs,
    show.schema,
):
    main.add_command(command)
