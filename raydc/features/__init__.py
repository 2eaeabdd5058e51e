"""Raw columns to network inputs, the same in preparation, training, evaluation and serving."""

from raydc.features.category_columns import Categorical, CategoryCodes, HashedCategory
from raydc.features.columns import CATEGORIES, Column
from raydc.features.conversation_column import Conversations
from raydc.features.date_column import DateParts
from raydc.features.encoded_categories import OrdinalCategory, TargetMean
from raydc.features.feature_set import Features
from raydc.features.image_column import Image
from raydc.features.list_column import NumberList
from raydc.features.number_column import Numeric
from raydc.features.prompt_texts import PromptTexts, TokenColumn
from raydc.features.record import Inputs, Ragged, Record
from raydc.features.series_window import SeriesWindow
from raydc.features.signature import Field, Signature
from raydc.features.table_column import TableColumn
from raydc.features.text_column import Text
from raydc.features.token_block import TokenBlock

__all__ = [
    "CATEGORIES",
    "Categorical",
    "CategoryCodes",
    "Column",
    "Conversations",
    "DateParts",
    "Features",
    "Field",
    "HashedCategory",
    "Image",
    "Inputs",
    "NumberList",
    "Numeric",
    "OrdinalCategory",
    "PromptTexts",
    "Ragged",
    "Record",
    "SeriesWindow",
    "Signature",
    "TableColumn",
    "TargetMean",
    "Text",
    "TokenBlock",
    "TokenColumn",
]
