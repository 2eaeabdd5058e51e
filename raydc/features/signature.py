"""What a network takes and gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Signature:
    """The shape of one stored row, and the meaning of the outputs.

    Attributes:
        kind: `vector` or `image`.
        shape: One row as it is stored: (F,) of a vector, (C, H, W) of an image.
        dtype: float32 of a vector, uint8 of an image.
        mean: Per channel of an image, in units of pixels (0 to 255); empty for a vector, which is stored scaled.
        scale: The same. A network computes (x - mean) / scale itself, so that images stay bytes until then.
        task: What the outputs mean.
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
        """One per class, or one for the value of a regression."""
        return len(self.classes) if self.task == "classification" else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Signature:
        """The inverse of `to_dict`. Raises TypeError where a field is missing or unknown."""
        fields: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in value.items()
        }
        return cls(**fields)
