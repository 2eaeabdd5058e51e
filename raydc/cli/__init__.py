"""The command line: a command for each stage, and `run` for all of them.

Exit codes are those of `raydc.errors`. Commands import what they need when they run, so that
`raydc --help` loads neither Ray nor torch.
"""

from raydc.cli import canary, endpoint, export, init, inventory, pages, rm, show, stages, token
from raydc.cli.app import main

__all__ = ["main"]

# In the order in which a newcomer needs them.
main.add_section("Specs", init.init, pages.inspect, show.validate, show.plan, show.schema)
main.add_section(
    "Stages",
    stages.run,
    stages.prepare,
    stages.train,
    stages.sweep,
    stages.evaluate,
    stages.chaos,
)
main.add_section(
    "Endpoint",
    endpoint.serve,
    endpoint.predict,
    endpoint.promote,
    endpoint.rollback,
    canary.canary,
    canary.shadow,
    endpoint.stop,
    token.token,
)
main.add_section(
    "Storage",
    inventory.runs,
    pages.report_runs,
    inventory.data,
    inventory.models,
    export.export,
    rm.rm,
)
