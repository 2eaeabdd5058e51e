"""The tokenizer of a user, from a `tokenizer.json` of Hugging Face. Pure.

Used in tasks of Ray Data, the driver and replicas; needs the library `tokenizers`.
"""

from __future__ import annotations

import json

from raydc.errors import DataError

# Characters of a text for one that its normalisation keeps, at most.
_MOST_SHRINKING = 4
INSTALL = "pip install 'raydc[texts]'"


class GivenTokenizer:
    """A tokenizer of the user.

    Args:
        content: JSON text of its file.
        max_tokens: Maximum number of tokens in a text, special ones included. None for whole texts
            without special tokens: what is written like one is text.
        takes_special: Whether what is written like a special token is one, in whole texts.

    Attributes:
        tokenizer: The tokenizer itself, of the library `tokenizers`.
        codes: Code of each token by its text.
        num_codes: One more than the greatest code.
        special: Special tokens.

    Raises:
        DataError: `tokenizers` is not installed, or cannot use the file.
    """

    def __init__(self, content: str, max_tokens: int | None, takes_special: bool = False) -> None:
        try:
            from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise DataError("a tokenizer file needs the package tokenizers", INSTALL) from error
        try:
            json.loads(content)
            self.tokenizer = Tokenizer.from_str(content)
            # Padding of the file would be taken for text. Its special tokens stay when a text is
            # cut, as they do where such a tokenizer comes from.
            self.tokenizer.no_padding()
            if max_tokens is None:
                self.tokenizer.no_truncation()
                self.tokenizer.encode_special_tokens = not takes_special
                # It adds nothing to whole texts, and may leave out spaces of their offsets.
                self.tokenizer.post_processor = None
            else:
                self.tokenizer.enable_truncation(max_tokens)
        # The library raises its own types, none of them public.
        except Exception as error:
            raise DataError(f"not a tokenizer file: {error}") from error
        self._is_whole = max_tokens is None
        self.codes = dict(self.tokenizer.get_vocab(with_added_tokens=True))
        self.num_codes = max(self.codes.values(), default=0) + 1
        self._longest = max(map(len, self.codes), default=1)
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.special = tuple(token.content for token in added if token.special)
        normalise = self.tokenizer.normalizer and self.tokenizer.normalizer.normalize_str
        blurred = [one.content for one in added if one.special and one.normalized and normalise]
        self._blurred = {one: normalise(one) for one in blurred}

    def find_special(self, text: str) -> str | None:
        """A special token that a text holds, or would hold when it is normalised; or None."""
        found = next((token for token in self.special if token in text), None)
        if found is None and self._blurred:
            normal = self.tokenizer.normalizer.normalize_str(text)
            found = next((token for token, form in self._blurred.items() if form in normal), None)
        return found

    def refuse_long(self, num_characters: int, max_codes: int, kept: float = 1.0) -> None:
        """Raises ValueError for a text of so many characters that it has too many tokens.

        Args:
            num_characters: Characters of the text.
            max_codes: One more token than it may have.
            kept: Fraction of the text that stays at least.
        """
        # A token stands for so many characters at most, after what normalisation takes away.
        if kept * num_characters > _MOST_SHRINKING * max_codes * self._longest:
            reason = f"it has {num_characters:,} characters, too many for {max_codes - 1:,} tokens"
            raise ValueError(reason)

    def encode(self, text: bytes, max_codes: int) -> list[int]:
        """Encodes a text.

        Raises ValueError if the tokenizer has no token for a part of it, or if it is far too long:
        the work of a tokenizer grows with the text, whatever is cut off then.
        """
        decoded = text.decode()
        if self._is_whole:
            self.refuse_long(len(decoded), max_codes)
        try:
            found = self.tokenizer.encode(decoded, add_special_tokens=not self._is_whole)
            return list(found.ids[:max_codes])
        except Exception as error:
            raise ValueError(f"the tokenizer fails on this text: {error}") from error

    def check_rows(self, max_tokens: int, is_pair: bool) -> None:
        """Refuses what would leave nothing of a text, or could not be stored.

        Args:
            max_tokens: Maximum number of tokens of a row.
            is_pair: Whether a row is a pair of texts.

        Raises:
            DataError: There is no room for a token of each text beside the special ones; or tokens
                of a pair have more than two types.
        """
        num_texts = 2 if is_pair else 1
        num_special = int(self.tokenizer.num_special_tokens_to_add(is_pair=is_pair))
        if max_tokens < num_special + num_texts:
            raise DataError(
                f"a {'pair' if is_pair else 'text'} has {num_special} special tokens, so that "
                f"{max_tokens} token(s) leave no room for one of each text",
                f"Set data.features.text.max_tokens to {num_special + num_texts} or more.",
            )
        if is_pair:
            try:
                self.encode_pair(b"a", b"b", max_tokens)
            except ValueError as error:
                raise DataError(str(error)) from error

    def encode_pair(self, first: bytes, second: bytes, max_codes: int) -> list[tuple[int, int]]:
        """Code and type of each token of two texts in one list.

        Args:
            first: The first text, in UTF-8.
            second: The second one.
            max_codes: Maximum number of tokens; the longer text is cut first.

        Raises:
            ValueError: The tokenizer has no token for a part of a text, or more than two types.
        """
        try:
            found = self.tokenizer.encode(first.decode(), second.decode())
        except Exception as error:
            raise ValueError(f"the tokenizer fails on these texts: {error}") from error
        # As of XLNet, whose last token has a type of its own.
        if max(found.type_ids, default=0) > 1:
            raise ValueError(
                f"the tokenizer gives tokens of a pair the types 0 to {max(found.type_ids)}, and "
                "only 0 and 1 can be read"
            )
        return list(zip(found.ids, found.type_ids, strict=True))[:max_codes]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Codes of a whole text, and where each token begins and ends in it.

        Raises ValueError if the tokenizer has no token for a part of it.
        """
        try:
            found = self.tokenizer.encode(text, add_special_tokens=False)
            return list(found.ids), list(found.offsets)
        except Exception as error:
            raise ValueError(f"the tokenizer fails on this text: {error}") from error
