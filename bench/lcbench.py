"""Learning curves of LCBench, from the surrogate of YAHPO Gym (slds-lmu/yahpo_data, Apache-2.0).

34 data sets, multilayer perceptrons with seven hyper-parameters, up to 52 epochs. A surrogate is
smoother than what it was made of, so it is a little kind to early stopping. Needs `onnxruntime`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# In the order of the inputs: low, high, whether in the logarithm, whether a whole number.
SPACE = {
    "batch_size": (16, 512, True, True),
    "learning_rate": (1e-4, 1e-1, True, False),
    "momentum": (0.1, 0.99, False, False),
    "weight_decay": (1e-5, 1e-1, True, False),
    "num_layers": (1, 5, False, True),
    "max_units": (64, 1024, True, True),
    "max_dropout": (0.0, 1.0, False, False),
}


def draw(seed: int, num_trials: int) -> Floats:
    """Draws points of the space.

    Args:
        seed: Seed of the draw.
        num_trials: Number of points.

    Returns:
        Values by point and hyper-parameter, in the order of `SPACE`.
    """
    uniform = np.random.default_rng(seed).random((num_trials, len(SPACE)))
    columns = []
    for column, (low, high, is_log, is_whole) in zip(uniform.T, SPACE.values(), strict=True):
        if is_log:
            values = np.exp(np.log(low) + column * (np.log(high) - np.log(low)))
        else:
            values = low + column * (high - low)
        columns.append(np.round(values) if is_whole else values)
    return np.stack(columns, axis=1)


class Surrogate:
    """The surrogate, on one CPU thread.

    Args:
        folder: Folder with `model.onnx` and `encoding.json`.

    Attributes:
        tasks: OpenML ids of the data sets.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        choices = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        self.tasks = [str(task) for task in choices[0]["choices"]]

    def curves(self, task: str, points: Floats, num_epochs: int) -> tuple[Floats, Floats]:
        """Learning curves of some points.

        Args:
            task: OpenML id of a data set.
            points: Values as `draw` returns them.
            num_epochs: Epochs of each curve, up to 52.

        Returns:
            Validation accuracy (0 to 100) and seconds since the start, by point and epoch.
        """
        num_points = len(points)
        epochs = np.tile(np.arange(1, num_epochs + 1), num_points)[:, None]
        numbers = np.concatenate([epochs, np.repeat(points, num_epochs, axis=0)], axis=1)
        inputs = {
            "x_cat": np.full((len(numbers), 1), self._codes[task], np.int32),
            "x_cont": numbers.astype(np.float32),
        }
        outputs = self._session.run(None, inputs)[0].reshape(num_points, num_epochs, -1)
        # The surrogate of the time is not always increasing.
        seconds = np.maximum.accumulate(outputs[:, :, 0].astype(np.float64), axis=1)
        return outputs[:, :, 1].astype(np.float64), seconds
