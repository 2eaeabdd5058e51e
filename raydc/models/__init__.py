"""Networks, their device, and the scores that judge them."""

from raydc.models.network_parts import Input, Network
from raydc.models.networks import build

__all__ = ["Input", "Network", "build"]
