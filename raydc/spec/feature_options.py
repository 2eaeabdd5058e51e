"""Section `data.features` of a spec: from columns to tensors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydc.spec.base import Count, Section
from raydc.spec.cleaning import Cell

Scale = Literal["standard", "min_max", "robust", "log", "quantile", "none"]
Encoding = Literal["one_hot", "embedding", "ordinal", "hashing", "target"]
DatePart = Literal[
    "elapsed", "year", "month", "day", "day_of_year", "day_of_week", "hour", "minute"
]
DATE_PARTS: tuple[DatePart, ...] = ("elapsed", "month", "day_of_week", "hour")


class TextOptions(Section):
    """How columns of the kind `text` become lists of tokens."""

    vocabulary: Annotated[int, Field(ge=256, le=65536)] = Field(
        8000,
        description="Maximum number of tokens that are learnt from the training rows, by byte-pair "
        "encoding. The 256 bytes are among them, so that no text is unknown.",
    )
    max_tokens: Count = Field(
        256, description="Maximum number of tokens in a text; the rest is cut off."
    )
    normalisation: Literal["none", "NFC", "NFKC"] = Field(
        "none",
        description="Unicode form to which texts are brought first. NFC joins a letter and its "
        "accent; NFKC also makes full-width and superscript characters plain.",
    )
    tokenizer: str | None = Field(
        None,
        description="Path of a `tokenizer.json` of Hugging Face to use instead of learning tokens; "
        "needs `pip install 'raydc[texts]'`. Its content becomes part of the model, and a change "
        "of it a different data set.",
    )
    pair: Annotated[list[str], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="Two columns of the kind `text` that become one list of tokens, as the "
        "tokenizer joins a pair of texts. The longer text of a pair is cut first. Needs a "
        "tokenizer, or a pretrained model with one.",
    )


class FeatureOptions(Section):
    """Conversion of columns to tensors. A column that is not named has the kind of its type."""

    exclude: list[str] = Field(default_factory=list, description="Columns that are left out.")
    columns: dict[str, Literal["numeric", "categorical", "date", "image", "text", "list"]] = Field(
        default_factory=dict,
        description="Kinds of columns whose inferred kind is wrong. `date` and `text` are never "
        "inferred. A column of dates, seconds since 1970 or text in ISO 8601, becomes the parts "
        "that `date_parts` names; a column of free text becomes a list of tokens. `list` reads "
        "text such as `[1, 2.5]` as numbers; lists of Parquet and JSON Lines are lists anyway.",
    )
    max_items: Count = Field(
        1024,
        description="Most items of a list of numbers; what comes after them is cut off, and a note "
        "says in how many rows.",
    )
    text: TextOptions = Field(TextOptions(), description="From texts to tokens.")
    encodings: dict[str, Encoding] = Field(
        default_factory=dict,
        description="How categories become numbers: `one_hot`, the default, gives each category an "
        "input of 0 or 1; `embedding` makes the column a field of its own, a number "
        "per category, for which the network learns a vector; `ordinal` is the place in the order "
        "of `orders` as a number; `hashing` gives an input to each of `hash_buckets`, so that new "
        "categories have one as well; `target` is the mean target of the category's training rows, "
        "where the row's own target is left out.",
    )
    orders: dict[str, Annotated[list[Cell], Field(min_length=2)]] = Field(
        default_factory=dict,
        description="Categories of `ordinal` columns, the lowest first. Default: by number if all "
        "are numbers, else by the bytes of their texts.",
    )
    hash_buckets: Annotated[int, Field(ge=2, le=65536)] = Field(
        256, description="Buckets of each column with the encoding `hashing`."
    )
    target_smoothing: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        10.0,
        description="For columns with the encoding `target`: this many rows with the mean target "
        "of all training rows are added to each category.",
    )
    scale: Scale = Field(
        "standard",
        description="Scaling of numbers: `standard`, by mean and standard deviation; `min_max`, to "
        "0 and 1; `robust`, by the median and the interquartile range; `log`, the logarithm "
        "of 1 + |x| with the sign of x, standardised; `quantile`, the rank among up to 1000 "
        "quantiles, from 0 to 1. `min_max` and `none` are for pixels as well, and for lists of "
        "numbers, which are standardised otherwise.",
    )
    scales: dict[str, Scale] = Field(
        default_factory=dict, description="Scaling of single columns of numbers, by name."
    )
    date_parts: dict[str, Annotated[list[DatePart], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Parts of single columns of dates, by name: `elapsed` and `year` are numbers, "
        "the others are cyclic and become sine and cosine. Default: "
        f"{', '.join(DATE_PARTS)}.",
    )
    max_categories: Count = Field(
        128,
        description="Maximum number of values of a categorical column with an input, a code or a "
        "number of their own; rarer values share one.",
    )
    image_size: list[Count] | None = Field(
        None, min_length=2, max_length=2, description="[height, width] to which images are resized."
    )
    image_channels: Literal[1, 3] | None = Field(
        None,
        description="Convert images to grey (1) or RGB (3). Files become what a viewer shows, here "
        "and at the endpoint: turned by their EXIF orientation, and white where transparent.",
    )

    @model_validator(mode="after")
    def _options_have_their_encoding(self) -> FeatureOptions:
        for name in self.orders:
            if self.encodings.get(name) != "ordinal":
                raise ValueError(f"orders: {name!r} needs encodings: {{{name}: ordinal}}")
            if len(set(self.orders[name])) < len(self.orders[name]):
                raise ValueError(f"orders: {name!r} names a category twice")
        for name in self.date_parts:
            if self.columns.get(name) != "date":
                raise ValueError(f"date_parts: {name!r} needs columns: {{{name}: date}}")
            if len(set(self.date_parts[name])) < len(self.date_parts[name]):
                raise ValueError(f"date_parts: {name!r} names a part twice")
        for name, kind in self.columns.items():
            if kind != "numeric" and name in self.scales:
                raise ValueError(f"scales: {name!r} is declared {kind}, and only numbers have one")
        return self

    def scale_of(self, name: str) -> Scale:
        """Scaling of a column of numbers, which may have its own."""
        return self.scales.get(name, self.scale)

    def as_written(self, unused: Sequence[str]) -> FeatureOptions:
        """The same for rows that are written out again: nothing is excluded, and dates stay texts.

        Args:
            unused: Columns that are not inputs, besides the excluded ones.
        """
        # The kind of a column that is not an input only has to be readable.
        dates = [name for name, kind in self.columns.items() if kind == "date"]
        texts = dict.fromkeys((*self.exclude, *unused, *dates), "categorical")
        return self.model_copy(update={"exclude": [], "columns": {**self.columns, **texts}})
