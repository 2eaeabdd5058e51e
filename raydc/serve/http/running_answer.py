"""An answer of a language model that grows for a request. Runs in the replica."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.requests import ClientDisconnect

from raydc.bundle.growing_answer import NotFiniteError
from raydc.serve.http.request import Request
from raydc.serve.protocol import completion_answer
from raydc.serve.protocol.completion_answer import ChatHead, CompletionHead
from raydc.serve.protocol.completion_body import CompletionBody
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.admission import Slot
from raydc.serve.replica.answer_stream import AnswerStream, Piece
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.watch.request_record import TokenCounts

logger = logging.getLogger("ray.serve")


class RunningAnswer:
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
        head, prefix = (ChatHead, "chatcmpl") if body.is_talk else (CompletionHead, "cmpl")
        self.head = head(f"{prefix}-{request.id}", int(time.time()), name, loaded.bundle.digest)
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


async def wait_for_turn(request: Request, slot: Slot) -> None:
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
