"""The path that requests take inside one replica, and why. In the replica; does not import Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raydc.engine import direct_support
from raydc.engine.direct_support import Part


@dataclass(frozen=True)
class Decision:
    """The outcome of the check at the start of a replica.

    Attributes:
        is_direct: Requests go from uvicorn straight to raydc, past Ray Serve's own handling.
        has_head_limits: The limits on request heads hold at the replica's own port.
        reason: Why, in one clause.
    """

    is_direct: bool
    has_head_limits: bool
    reason: str

    @classmethod
    def off(cls) -> Decision:
        """The decision of a spec with `serve.direct: off`."""
        return cls(False, False, "serve.direct is off")

    @classmethod
    def refused(cls, reasons: Sequence[str]) -> Decision:
        """Ray Serve's path without the limits, for these reasons."""
        return cls(False, False, "; ".join(reasons))

    @property
    def path(self) -> str:
        """`direct` or `serve`."""
        return "direct" if self.is_direct else "serve"

    @property
    def missing_limits(self) -> list[str]:
        """Limits of this replica that are not in force; those of HAProxy are unknown here."""
        in_force: set[Part] = {"HAProxy"}
        in_force |= {"head limits"} if self.has_head_limits else set()
        in_force |= {"direct path"} if self.is_direct else set()
        return direct_support.missing_limits(in_force)

    def to_dict(self) -> dict[str, Any]:
        """Form in the endpoint's metadata and in the state of a replica."""
        return {
            "path": self.path,
            "reason": self.reason,
            "limits_not_in_force": self.missing_limits,
        }
