"""Networks, their device, and the scores that judge them."""

from raydc.models.networks import Input, Network, build

__all__ = ["Input", "Network", "build"]
