"""The length of a run in steps and epochs, and the place of a step in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Length:
    """The number of steps of a run.

    Attributes:
        total_steps: Steps of the whole run.
        steps_per_epoch: Steps of one epoch, a smaller last one included.
    """

    total_steps: int
    steps_per_epoch: int

    @property
    def num_epochs(self) -> int:
        """Number of epochs, a partial last one included."""
        return self.epochs_begun(self.total_steps)

    def epoch_of(self, step: int) -> int:
        """Epoch, from 0, of the step that follows `step` completed steps."""
        return step // self.steps_per_epoch

    def epochs_begun(self, step: int) -> int:
        """Number of epochs that `step` completed steps have touched."""
        return -(-step // self.steps_per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, ends after `step` completed steps."""
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    def rest_of_epoch(self, step: int) -> tuple[int, int, int]:
        """The steps between a position and the end of its epoch.

        Args:
            step: Completed steps of the run, from 0.

        Returns:
            The epoch from 0, the first step inside it, and the end of the range (exclusive). If the
            run ends inside the epoch, the range ends there.
        """
        epoch = self.epoch_of(step)
        first = epoch * self.steps_per_epoch
        return epoch, step - first, min(self.steps_per_epoch, self.total_steps - first)
