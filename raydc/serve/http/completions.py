"""Handlers of `/v1/...`: texts and conversations in OpenAI's format. Run in the replica."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable

from starlette.responses import Response

from raydc.errors import DataError, did_you_mean
from raydc.features import PromptTexts
from raydc.serve.http.embeddings import EmbeddingHandler
from raydc.serve.http.named_version import (
    find_adapter,
    require_json,
    require_named,
    require_path,
)
from raydc.serve.http.request import OPENAI, Request, json_response
from raydc.serve.http.running_answer import RunningAnswer, wait_for_turn
from raydc.serve.http.streamed_response import StreamedResponse
from raydc.serve.protocol import completion_answer
from raydc.serve.protocol.chat_body import parse_chat
from raydc.serve.protocol.completion_body import CompletionBody, parse_completion
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.admission import Slot
from raydc.serve.replica.answer_stream import Piece
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.replica.service import Service
from raydc.serve.replica.text_engine import TextEngine

PATHS = ("models", "completions", "chat/completions", "embeddings")
# Longer prompts are cut into tokens in a thread, so that the event loop stays free.
_SHORT_PROMPT_CHARS = 2048


class CompletionHandler:
    """Answers requests for texts. Raises RequestError for what it refuses."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._embeddings = EmbeddingHandler(service)

    async def answer(self, request: Request, loaded: LoadedVersion, rest: list[str]) -> Response:
        """Answers below `/v1/`.

        Args:
            request: Request whose body has not been read yet.
            loaded: Version that was chosen for it.
            rest: Segments of the path behind `v1`.
        """
        if loaded.engine is None:
            require_path(loaded, rest)
        match rest:
            case ["embeddings"]:
                request.require_method("POST")
                return await self._embeddings.answer(request, loaded)
            case ["completions"]:
                request.require_method("POST")
                return await self._complete(request, loaded, parse_completion)
            case ["models"]:
                request.require_method("GET")
                models = self._describe_models(loaded)
                return json_response({"object": "list", "data": models})
            case ["models", name]:
                request.require_method("GET")
                await require_named(self._service, request, loaded, name)
                created = _created(loaded)
                return json_response(completion_answer.describe_models([name], created)[0])
            case ["chat", "completions"]:
                request.require_method("POST")
                return await self._complete(request, loaded, parse_chat)
        path = "/".join(rest)[:200]
        hint = did_you_mean(path, PATHS)
        known = ", ".join(f"/{OPENAI}/{one}" for one in PATHS)
        raise RequestError(404, f"no path /{OPENAI}/{path}; {hint or f'known paths: {known}'}")

    def _describe_models(self, loaded: LoadedVersion) -> list[dict[str, object]]:
        stable = self._service.current or loaded
        name = loaded.settings.model
        others = [one.version for one in self._service.adapters.loaded]
        # An adapter that has become the stable version may be there twice.
        versions = dict.fromkeys([stable.version, *others])
        names = [name, *(f"{name}:{version}" for version in versions)]
        return completion_answer.describe_models(names, _created(stable))

    async def _complete(
        self, request: Request, loaded: LoadedVersion, parse: Callable[[bytes], CompletionBody]
    ) -> Response:
        require_json(request)
        slot = await self._service.admission.admit()
        with contextlib.ExitStack() as held:
            held.callback(slot.release)
            content = await slot.read(request, loaded.settings.max_request_bytes)
            body = parse(content)
            found = await find_adapter(self._service, request, loaded, body.model, slot.aside)
            assert found.engine is not None
            answer = await self._begin(request, found, found.engine, body, slot)
            held.callback(answer.close)
            first = await answer.next_piece()
            if not body.is_stream:
                return await _whole(answer, first)
            release = held.pop_all().close
            return StreamedResponse(
                self._events(answer, first), completion_answer.EVENT_STREAM, release
            )
        raise AssertionError("an exit stack raises what is raised inside of it")

    async def _begin(
        self,
        request: Request,
        loaded: LoadedVersion,
        engine: TextEngine,
        body: CompletionBody,
        slot: Slot,
    ) -> RunningAnswer:
        prompts = engine.prompts
        if body.is_talk and prompts.talk is None:
            raise RequestError(
                400,
                f"{body.model!r} has no chat template: it continues texts, at /v1/completions",
                param="model",
                code="no_chat_template",
            )
        codes = await self._encode(prompts, body, engine.max_tokens)
        # Of what the client leaves open, which nobody can repeat.
        seed = secrets.randbits(64)
        options = body.options(len(codes), engine.max_tokens, loaded.settings.max_tokens, seed)
        # Only now: what is refused must not hold a slot of the model.
        await wait_for_turn(request, slot)
        return RunningAnswer(request, loaded, body, engine.submit(codes, options, body.is_talk))

    async def _encode(self, prompts: PromptTexts, body: CompletionBody, length: int) -> list[int]:
        """Codes of a prompt, at most one more than the model takes."""
        if isinstance(body.prompt, str):
            num_chars = len(body.prompt)
        else:
            num_chars = sum(len(one["content"]) for one in body.prompt)
        name = body.prompt_name

        def encode() -> list[int]:
            if body.is_talk:
                return prompts.encode_messages(body.prompt, name, length + 1)
            return prompts.encode(body.prompt, name, length + 1)

        try:
            if num_chars <= _SHORT_PROMPT_CHARS:
                return encode()
            return await self._service.run_in_thread(encode)
        except DataError as error:
            message = f"{error.message}. {error.hint}" if error.hint else error.message
            raise RequestError(400, message, param=name) from error

    async def _events(self, answer: RunningAnswer, first: Piece) -> AsyncGenerator[bytes]:
        """The events of a stream, from its first piece on."""
        # With usage asked for, each event has the field, and only the last a value.
        nothing = {"usage": None} if answer.body.has_usage else {}
        piece, waiting = first, answer.head.opening()
        while True:
            if piece.text or piece.is_last:
                waiting += answer.head.part(piece.text, piece.finish_reason)
            for part in waiting:
                yield completion_answer.encode_event({**part, **nothing})
            waiting = []
            if piece.is_last:
                break
            try:
                piece = await answer.next_piece_in_time()
            except RequestError as error:
                # The status is sent already; OpenAI's clients raise what such an event says.
                self._service.tallies[answer.loaded.number].add(error.status, 0.0)
                described = completion_answer.describe_error(error, answer.request_id)
                yield completion_answer.encode_event(described)
                return
        if answer.body.has_usage:
            yield completion_answer.encode_event(answer.head.usage_body(answer.usage()))
        yield completion_answer.DONE


async def _whole(answer: RunningAnswer, first: Piece) -> Response:
    """The answer in one piece."""
    pieces = [first]
    while not pieces[-1].is_last:
        pieces.append(await answer.next_piece())
    text = "".join(piece.text for piece in pieces)
    part = answer.head.whole(text, pieces[-1].finish_reason)
    return json_response({**part, "usage": answer.usage()})


def _created(loaded: LoadedVersion) -> int:
    return int(loaded.source.get("time_s") or 0)
