"""How files of rows to predict are read: as in training, but with every row and column kept.

Runs in the driver.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from raydc.data.layout import Layout
from raydc.data.nested_cells import NestedCells
from raydc.data.readers import Reader
from raydc.features import Features
from raydc.spec import absolute
from raydc.spec.data import Data
from raydc.spec.language import LANGUAGE


def section(data: Data, source: str) -> Data:
    """The section `data` of training with another source, and with every row and column kept.

    Args:
        data: The section with which the model was trained.
        source: Path, folder, pattern or URI of the rows to predict.
    """
    features = data.features.as_written(data.label_columns or ())
    clean = data.clean.model_copy(update={"duplicates": "keep", "on_error": "fail"})
    # Ray's processes work in another directory than the one in which the path was typed.
    update = {"source": absolute(source), "format": "auto", "clean": clean, "features": features}
    # Rows to predict need no labels, and columns of labels stay what they are. Files of text are
    # prompts of a language model, and elsewhere no rows.
    task = LANGUAGE if data.task == LANGUAGE else "regression"
    update |= {"task": task, "classes": None, "label_columns": None, "query": None}
    # The pixels of an image are enough here; its file would only take memory.
    return data.model_copy(update={**update, "image_storage": "decoded"})


def reader(features: Features, layout: Layout, data: Data, texts: Collection[str] = ()) -> Reader:
    """Reads rows to predict; columns that are no inputs may hold anything, as in a request.

    Args:
        features: Features of the model, with its inputs.
        layout: Files of the source.
        data: What `section` returns.
        texts: Further columns that are inputs, in which a list or an object is a fault.
    """
    found = Reader.for_layout(layout, data, as_shown=features.shows_images)
    # Past steps and messages are lists or objects, which the column itself reads.
    kinds = ("window", "tokens", "conversations")
    inputs = [name for name, column in features.columns.items() if column.kind not in kinds]
    return replace(found, nested=NestedCells(inputs=frozenset((*inputs, *texts))))
