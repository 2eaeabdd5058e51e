"""Inputs and outputs of a network. Pure; used in every process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Signature:
    """The shape of one stored row, and the meaning of the outputs.

    Attributes:
        kind: `vector` or `image`.
        shape: Shape of a stored row: (F,) for a vector, (C, H, W) for an image.
        dtype: float32 for a vector, uint8 for an image.
        mean: Mean of each channel of an image, in units of pixels (0 to 255); empty for a vector,
            which is stored scaled.
        scale: Divisor of each channel, in the same units. The network itself computes
            (x - mean) / scale, so that images stay bytes until then.
        task: Whether the outputs are scores of classes or a value.
        classes: Names of the classes in the order of the outputs; empty for a regression.
    """

    kind: Literal["vector", "image"]
    shape: tuple[int, ...]
    dtype: Literal["float32", "uint8"]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    task: Literal["classification", "regression"]
    classes: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """Outputs of the network: one per class, or one for a regression."""
        return len(self.classes) if self.task == "classification" else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which `from_dict` reads."""
        # JSON has no tuples: they become lists here rather than in `json.dumps`, so that the hash
        # of features is the same before and after a file.
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Signature:
        """The inverse of `to_dict`. Raises TypeError if a field is missing or unknown."""
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in value.items()
        }
        return cls(**fields)
