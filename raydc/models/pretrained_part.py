"""The part of a network that a library builds, with the weights of a folder. Used with networks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

# Name of the layer behind a decoder, in files and in networks of transformers.
HEAD = "lm_head"


class PretrainedPart(nn.Module):
    """A network of transformers inside another one.

    Args:
        base: Network of transformers without a last layer.

    Attributes:
        base: The same; adapters are added inside it.
        head: Last layer whose weights the folder has as well; None without one, or if its weights
            are those of the tokens.
    """

    def __init__(self, base: nn.Module, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.base = base
        self.head = head

    def pretrained_state(self) -> Mapping[str, Tensor]:
        """Tensors that the folder has, under the names of the network without a last layer.

        The last layer has its own name in front.
        """
        own = {} if self.head is None else self.head.state_dict()
        return {**self.base.state_dict(), **{f"{HEAD}.{name}": one for name, one in own.items()}}


def part_of(network: nn.Module) -> PretrainedPart:
    """The pretrained part of a network."""
    return next(one for one in network.modules() if isinstance(one, PretrainedPart))
