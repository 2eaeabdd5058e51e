"""Breaks a user's own spec on purpose, small, and says whether it ended as if nobody had touched it."""

from raydc.chaos.experiment import Options, run
from raydc.chaos.nodes import Nodes

__all__ = ["Nodes", "Options", "run"]
