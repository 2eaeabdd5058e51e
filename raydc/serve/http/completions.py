"""Handlers of `/v1/...`, which continue texts in OpenAI's format. Run in the replica."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from raydc.bundle.growing_answer import NotFiniteError
from raydc.errors import DataError, did_you_mean
from raydc.features import PromptTexts
from raydc.serve.http.authentication import require_right
from raydc.serve.http.request import JSON, OPENAI, Request, json_response
from raydc.serve.http.streamed_response import StreamedResponse
from raydc.serve.protocol import completion_answer
from raydc.serve.protocol.completion_answer import CompletionHead
from raydc.serve.protocol.completion_body import CompletionBody, parse_completion
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.admission import Slot
from raydc.serve.replica.generation_engine import AnswerStream, GenerationEngine, Piece
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.replica.service import Service
from raydc.serve.watch.request_record import TokenCounts

logger = logging.getLogger("ray.serve")

PATHS = ("models", "completions", "chat/completions")
# Longer prompts are cut into tokens in a thread, so that the event loop stays free.
_SHORT_PROMPT_CHARS = 2048


class CompletionHandler:
    """Answers requests for texts. Raises RequestError for what it refuses."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request, loaded: LoadedVersion, rest: list[str]) -> Response:
        """Answers below `/v1/`.

        Args:
            request: Request whose body has not been read yet.
            loaded: Version that was chosen for it.
            rest: Segments of the path behind `v1`.
        """
        model, engine = loaded.settings.model, loaded.engine
        if engine is None:
            raise RequestError(
                404, f"{model!r} predicts rows and continues no texts; it answers at /predict"
            )
        match rest:
            case ["completions"]:
                request.require_method("POST")
                return await self._complete(request, loaded)
            case ["models"]:
                request.require_method("GET")
                models = self._describe_models(loaded)
                return json_response({"object": "list", "data": models})
            case ["models", name]:
                request.require_method("GET")
                self._find_named(request, loaded, name)
                created = _created(loaded)
                return json_response(completion_answer.describe_models([name], created)[0])
            case ["chat", "completions"]:
                request.require_method("POST")
                raise RequestError(
                    400,
                    f"{model!r} has no chat template: it continues texts, at /v1/completions",
                    code="no_chat_template",
                )
        path = "/".join(rest)[:200]
        hint = did_you_mean(path, PATHS)
        known = ", ".join(f"/{OPENAI}/{one}" for one in PATHS)
        raise RequestError(404, f"no path /{OPENAI}/{path}; {hint or f'known paths: {known}'}")

    def _describe_models(self, loaded: LoadedVersion) -> list[dict[str, object]]:
        stable = self._service.current or loaded
        name = loaded.settings.model
        names = [name, f"{name}:{stable.version}"]
        return completion_answer.describe_models(names, _created(stable))

    def _find_named(self, request: Request, loaded: LoadedVersion, name: str) -> LoadedVersion:
        """The version that a name means: the chosen one, or `model:version`.

        Raises:
            RequestError: 404 if it does not answer; 403 without the right to a version beside the
                stable one.
        """
        model, _, version = name.partition(":")
        found = loaded if name == loaded.settings.model else self._service.find(version)
        if model != loaded.settings.model or found is None or found.engine is None:
            raise RequestError(
                404,
                f"no model {name[:200]!r}; this endpoint serves {loaded.settings.model!r}",
                param="model",
                code="model_not_found",
            )
        stable = self._service.current
        is_public = found is loaded or (stable is not None and found.number == stable.number)
        if not is_public and request.access is not None:
            require_right(request.access, "promote")
        if found is not loaded:
            request.answered_by = found
        return found

    async def _complete(self, request: Request, loaded: LoadedVersion) -> Response:
        content_type = request.header(b"content-type").partition(";")[0].strip().lower()
        if content_type != JSON.decode():
            raise RequestError(415, f"content-type is {content_type[:80]!r}; send application/json")
        slot = await self._service.admission.admit()
        with contextlib.ExitStack() as held:
            held.callback(slot.release)
            content = await slot.read(request, loaded.settings.max_request_bytes)
            body = parse_completion(content)
            found = self._find_named(request, loaded, body.model)
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
        engine: GenerationEngine,
        body: CompletionBody,
        slot: Slot,
    ) -> _Answer:
        codes = await self._encode(engine.prompts, body.prompt, engine.max_tokens)
        # Of what the client leaves open, which nobody can repeat.
        seed = secrets.randbits(64)
        options = body.options(len(codes), engine.max_tokens, loaded.settings.max_tokens, seed)
        # Only now: what is refused must not hold a slot of the model.
        await _wait_for_turn(request, slot)
        return _Answer(request, loaded, body, engine.submit(codes, options))

    async def _encode(self, prompts: PromptTexts, prompt: str, length: int) -> list[int]:
        """Codes of a prompt, at most one more than the model takes."""
        try:
            if len(prompt) <= _SHORT_PROMPT_CHARS:
                return prompts.encode(prompt, "prompt", length + 1)
            return await self._service.run_in_thread(
                lambda: prompts.encode(prompt, "prompt", length + 1)
            )
        except DataError as error:
            message = f"{error.message}. {error.hint}" if error.hint else error.message
            raise RequestError(400, message, param="prompt") from error

    async def _events(self, answer: _Answer, first: Piece) -> AsyncGenerator[bytes]:
        """The events of a stream, from its first piece on."""
        # With usage asked for, each event has the field, and only the last a value.
        nothing = {"usage": None} if answer.body.has_usage else {}
        piece = first
        while True:
            if piece.text or piece.is_last:
                part = answer.head.body(piece.text, piece.finish_reason)
                yield completion_answer.encode_event({**part, **nothing})
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


class _Answer:
    """An answer that grows for a request, and the watch over its client.

    Args:
        request: Request that is answered; its counts of tokens are kept.
        loaded: Version that answers, until the end.
        body: What was asked for.
        stream: The answer as it comes from the engine.
    """

    def __init__(
        self, request: Request, loaded: LoadedVersion, body: CompletionBody, stream: AnswerStream
    ) -> None:
        self.loaded = loaded
        self.body = body
        name = f"{loaded.settings.model}:{loaded.version}"
        self.head = CompletionHead(
            f"cmpl-{request.id}", int(time.time()), name, loaded.bundle.digest
        )
        self._request = request
        self._stream = stream
        self._counts = request.tokens = TokenCounts(stream.num_prompt_tokens)
        self._deadline = stream.loop.time() + loaded.settings.stream_timeout_s
        self._watch = stream.loop.create_task(self._watch_client())

    async def _watch_client(self) -> None:
        """Ends the answer when the client goes: after the body nothing else can come."""
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._stream.cancel()
            self._stream.put(Piece("", 0, error=ClientDisconnect()))

    async def next_piece(self) -> Piece:
        """Waits for the next part, and counts its tokens.

        Raises:
            RequestError: 500 if the model fails.
            ClientDisconnect: The client has gone.
        """
        try:
            piece = await self._stream.next_piece()
        except ClientDisconnect:
            raise
        except NotFiniteError as error:
            raise RequestError(500, str(error)) from error
        except Exception as error:
            logger.exception("request %s failed", self._request.id)
            message = "the model failed on this request; the replica's log says why"
            raise RequestError(500, message) from error
        self._counts.note(piece.num_tokens, time.perf_counter() - self._request.began_s)
        return piece

    async def next_piece_in_time(self) -> Piece:
        """Does what `next_piece` does; RequestError 408 if there is no token in time."""
        settings = self.loaded.settings
        left_s = self._deadline - self._stream.loop.time()
        try:
            async with asyncio.timeout(min(settings.request_timeout_s, left_s)):
                return await self.next_piece()
        except TimeoutError as error:
            message = f"no token within request_timeout_s = {settings.request_timeout_s:g} s"
            if left_s < settings.request_timeout_s:
                limit_s = settings.stream_timeout_s
                message = f"the stream has not ended within generation.timeout_s = {limit_s:g} s"
            raise RequestError(408, message) from error

    @property
    def request_id(self) -> str:
        """Id of its request."""
        return self._request.id

    def usage(self) -> dict[str, object]:
        """Tokens so far, as OpenAI names them."""
        return completion_answer.count_usage(self._counts.num_prompt, self._counts.num_answer)

    def close(self) -> None:
        """Ends the work for it, if it has not ended."""
        self._stream.cancel()
        self._watch.cancel()


async def _wait_for_turn(request: Request, slot: Slot) -> None:
    """Waits for a slot of the model; a client that goes meanwhile leaves the queue at once.

    Raises:
        RequestError: 429 if the queue has filled up.
        ClientDisconnect: The client has gone.
    """
    turn = asyncio.ensure_future(slot.start_computing())
    # The body has been read, so that nothing but the end of the connection can come.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            raise ClientDisconnect
        turn.result()
    finally:
        for task in (turn, gone):
            task.cancel()


async def _whole(answer: _Answer, first: Piece) -> Response:
    """The answer in one piece."""
    pieces = [first]
    while not pieces[-1].is_last:
        pieces.append(await answer.next_piece())
    text = "".join(piece.text for piece in pieces)
    part = answer.head.body(text, pieces[-1].finish_reason)
    return json_response({**part, "usage": answer.usage()})


def _created(loaded: LoadedVersion) -> int:
    return int(loaded.source.get("time_s") or 0)
