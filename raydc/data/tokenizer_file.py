"""The `tokenizer.json` of a user: read and tried before anything is prepared. In the driver."""

from __future__ import annotations

from pathlib import Path

from raydc.errors import DataError
from raydc.features import Conversations, TokenBlock, text_column, token_block
from raydc.features.given_tokenizer import GivenTokenizer
from raydc.spec.data import Data
from raydc.spec.feature_options import TextOptions

_FIELD = "data.features.text.tokenizer"


def read(path: str) -> str:
    """Reads the file of a tokenizer.

    Raises:
        DataError: There is no such file, or it is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"{_FIELD}: {path}: {reason}") from error


def check_tokenizer(options: TextOptions) -> text_column.Text:
    """Makes the column that a tokenizer file gives.

    Args:
        options: Section `data.features.text` with a tokenizer.

    Raises:
        DataError: The file cannot be used, or leaves no room for a text; or the library for it is
            not installed.
    """
    path = options.tokenizer or ""
    content = read(path)
    try:
        tokenizer = GivenTokenizer(content, options.max_tokens)
        tokenizer.check_rows(options.max_tokens, options.pair is not None)
        return text_column.of_tokenizer(content, options.max_tokens, options.normalisation)
    except DataError as error:
        raise DataError(f"{_FIELD}: {path}: {error.message}", error.hint) from error


def check_blocks(data: Data) -> TokenBlock:
    """Makes the column of documents that a tokenizer file gives.

    Args:
        data: Section `data` of a language model, with a tokenizer.

    Raises:
        DataError: The file cannot be used or has no such end token, or the library for it is not
            installed.
    """
    options, blocks = data.features.text, data.blocks
    path = options.tokenizer or ""
    content = read(path)
    try:
        return token_block.of_tokenizer(
            content, blocks.end_token, blocks.length, options.normalisation
        )
    except DataError as error:
        raise DataError(f"{_FIELD}: {path}: {error.message}", error.hint) from error


def check_conversations(data: Data) -> Conversations:
    """Makes the column of conversations that a tokenizer file and a chat template give.

    Args:
        data: Section `data` of a resolved spec, with `chat`.

    Raises:
        DataError: The file or the template cannot be used: as is one that cannot tell an answer.
    """
    chat, block = data.chat, check_blocks(data)
    assert chat is not None
    tokens = chat.special_tokens or {}
    flat = tuple(part for pair in sorted(tokens.items()) for part in pair)
    end_code = min(block.end_code, block.num_codes - 1)
    column = Conversations(
        block.num_codes, block.length, end_code, block.tokenizer, chat.template or "", flat
    )
    example = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    column.encode(example, "data.chat.template, tried with a question and an answer")
    return column
