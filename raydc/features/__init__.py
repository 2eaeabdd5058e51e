"""Raw columns to network inputs, the same in preparation, training, evaluation and serving."""

from raydc.features.columns import Categorical, Column, Image, Numeric
from raydc.features.feature_set import Features
from raydc.features.signature import Signature

__all__ = ["Categorical", "Column", "Features", "Image", "Numeric", "Signature"]
