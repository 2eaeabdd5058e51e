"""What is asked for by `/v1/completions` and `/v1/chat/completions`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydc.bundle.growing_answer import AnswerOptions
from raydc.models.token_sampling import TokenSampling
from raydc.serve.protocol import body_fields
from raydc.serve.protocol.body_fields import refusal
from raydc.serve.protocol.interface import RequestError, json_type_of

# What OpenAI takes if nothing is said.
_MAX_TOKENS = 16
MOST_TOKENS = 2**31
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
# Fields of both kinds of bodies.
SAMPLING = ("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options")
_KNOWN = ("model", "prompt", *SAMPLING)


@dataclass(frozen=True)
class CompletionBody:
    """A request for a completion, of a text or of a conversation.

    Attributes:
        model: Name of the model, maybe with a version behind a colon.
        prompt: Text that is continued; or messages, each with its role and content.
        max_tokens: Most tokens of the answer; None if the client leaves it open.
        open_tokens: Most tokens of an answer that the client leaves open; None for no limit.
        temperature: See `TokenSampling`.
        top_p: See `TokenSampling`.
        seed: Seed of the tokens; None takes a random one.
        stop: Strings that end the answer.
        is_stream: Whether the answer comes in events.
        has_usage: Whether the last event of a stream counts tokens.
        limit_name: Name of the field with the most tokens, for messages.
    """

    model: str
    prompt: str | list[dict[str, Any]]
    max_tokens: int | None
    open_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    is_stream: bool
    has_usage: bool
    limit_name: str = "max_tokens"

    @property
    def is_talk(self) -> bool:
        """Whether messages are answered."""
        return not isinstance(self.prompt, str)

    @property
    def prompt_name(self) -> str:
        """Name of the field of the prompt."""
        return "messages" if self.is_talk else "prompt"

    def options(self, num_prompt_tokens: int, length: int, most: int, seed: int) -> AnswerOptions:
        """What is asked for, within the limits of the model.

        Args:
            num_prompt_tokens: Tokens of the prompt.
            length: Most tokens of prompt and answer together.
            most: Most tokens that the endpoint allows in an answer.
            seed: Seed if the client gave none.

        Raises:
            RequestError: 400 if more is asked for.
        """
        if self.max_tokens is not None and self.max_tokens > most:
            message = f"it is {self.max_tokens}; this endpoint allows {most}"
            raise refusal(self.limit_name, message)
        is_open = self.max_tokens is None
        wanted = min(self.open_tokens or most, most) if self.max_tokens is None else self.max_tokens
        # What the client left open may be less; at least one token must fit.
        least = 1 if is_open else wanted
        if num_prompt_tokens + least > length:
            raise RequestError(
                400,
                f"this model takes {length} tokens, of prompt and answer together; the prompt has "
                f"{_count(num_prompt_tokens, length)} and the answer up to {least}. Shorten the "
                f"prompt, or ask for fewer tokens with {self.limit_name}",
                param=self.prompt_name if num_prompt_tokens >= length else self.limit_name,
                code="context_length_exceeded",
            )
        chosen = seed if self.seed is None else self.seed
        sampling = TokenSampling(self.temperature, self.top_p, chosen)
        return AnswerOptions(min(wanted, length - num_prompt_tokens), sampling, self.stop)


def _count(num_tokens: int, length: int) -> str:
    """Number of tokens; those of a prompt are not counted beyond what the model takes."""
    return f"more than {length}" if num_tokens > length else str(num_tokens)


def parse_completion(content: bytes) -> CompletionBody:
    """Reads a body of `/v1/completions`.

    Args:
        content: JSON of an object.

    Raises:
        RequestError: 400 if it is malformed or asks for what is not supported; names the field.
    """
    value = body_fields.parse_object(content)
    body_fields.check_names(value, _KNOWN, _NEUTRAL)
    max_tokens = body_fields.whole_number(value, "max_tokens", 1, MOST_TOKENS)
    return make_body(value, _prompt(value), max_tokens, _MAX_TOKENS)


def make_body(
    value: dict[str, Any],
    prompt: str | list[dict[str, Any]],
    max_tokens: int | None,
    open_tokens: int | None,
    limit_name: str = "max_tokens",
) -> CompletionBody:
    """Reads what both kinds of bodies have in common.

    Args:
        value: The body.
        prompt: What was read of it.
        max_tokens: Most tokens of the answer; None if the client leaves it open.
        open_tokens: Most tokens of an answer that the client leaves open; None for no limit.
        limit_name: Name of the field with the most tokens.

    Raises:
        RequestError: 400; names the field.
    """
    is_stream = body_fields.flag(value, "stream")
    return CompletionBody(
        body_fields.model_of(value),
        prompt,
        max_tokens,
        open_tokens,
        body_fields.temperature_of(value),
        body_fields.top_p_of(value),
        body_fields.seed_of(value),
        body_fields.stop_of(value),
        is_stream,
        body_fields.has_usage(value, is_stream),
        limit_name,
    )


def _prompt(value: dict[str, Any]) -> str:
    prompt = value.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        given = "missing" if "prompt" not in value else json_type_of(prompt)
        raise refusal("prompt", f"it is {given}; give one string, and no codes of tokens")
    return prompt
