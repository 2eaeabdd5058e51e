"""`raydc chaos`: breaks a small run of a user's spec on purpose and checks how it ends."""

from raydc.chaos.experiment import Options, run
from raydc.chaos.nodes import Nodes

__all__ = ["Nodes", "Options", "run"]
