"""Networks, their device, and the scores that judge them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydc.models.network_parts import Input, Network
    from raydc.models.networks import build, build_to_check

__all__ = ["Input", "Network", "build", "build_to_check"]


def __getattr__(name: str) -> Any:
    """Imports torch at the first use: modules of this folder that check a spec need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # It imports the others.
    from raydc.models import networks

    return getattr(networks, name)
