"""What turns raw columns into tensors, the same in preparation, evaluation and serving."""

from raydc.features.columns import Categorical, Column, Image, Numeric
from raydc.features.feature_set import Features
from raydc.features.signature import Signature

__all__ = ["Categorical", "Column", "Features", "Image", "Numeric", "Signature"]
