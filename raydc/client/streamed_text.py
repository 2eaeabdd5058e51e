"""A text of a language model as it comes, which goes on where a replica dies.

An answer depends on nothing but its request and its version. So a stream that breaks off is asked
for again, with the same seed and of the same version, and what has come already is left out.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import sleep
from typing import Any

import httpx

from raydc.client import operations, transport
from raydc.client.retry import CONNECT_TIMEOUT_S, MAX_RETRIES, Call
from raydc.errors import ServeError

_DATA, _DONE = "data:", "[DONE]"
_STREAM = "text/event-stream"
_NUM_SEEDS = 2**63
_MOST_SHOWN = 200


class StreamedText:
    """The parts of one text; it is iterated once.

    Args:
        url: Address of the endpoint.
        model: Name of the model, or `model:version`.
        prompt: Text that the answer follows, or messages that are answered.
        timeout_s: Most seconds until the first part, and from part to part, with all attempts.
        token: Access token. Default: the environment variable RAYDC_TOKEN.
        options: Further fields in OpenAI's format.

    Attributes:
        text: What has come so far.
        model: Name of the model with the version that answers; as given before the first part.
        num_resumed: Times that the stream broke off and was asked for again.

    Raises:
        UsageError: `url` is not an address, or JSON cannot hold a value.
    """

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str | Sequence[Mapping[str, Any]],
        timeout_s: float,
        token: str | None,
        options: Mapping[str, Any],
    ) -> None:
        # A canary takes the same version for the same key.
        key = uuid.uuid4().hex
        self._target = transport.make_target(url, token, key, timeout_s, MAX_RETRIES, None, None)
        limits = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        self._limits = limits.as_dict()
        self._prompt = prompt
        self._options = {**options, "stream": True}
        if self._options.get("seed") is None:
            self._options["seed"] = secrets.randbelow(_NUM_SEEDS)
        self._id = uuid.uuid4().hex
        self._is_done = False
        self.text = ""
        self.model = model
        self.num_resumed = 0
        self._operation = self._ask(model)

    def _ask(self, model: str) -> operations.Operation[Any]:
        self._asked_model = model
        if isinstance(self._prompt, str):
            return operations.complete(model, self._prompt, self._options)
        return operations.chat(model, self._prompt, self._options)

    def _start_call(self) -> Call:
        return self._target.start_call(self._operation, None, None, self._id)

    def __iter__(self) -> Iterator[str]:
        """The parts of the text.

        Raises:
            RefusedError: The endpoint refuses the request; or a stream broke off, and its version
                does not answer any more. `text` is what came before.
            UnavailableError: Nothing came in time.
            ServeError: The model failed, or gave another text the second time; or what answers is
                no stream of texts.
        """
        call = self._start_call()
        with httpx.Client(**self._target.http_options()) as http:
            while not self._is_done:
                call.start_attempt()
                trace = transport.AttemptTrace(call)
                request = self._target.build_request(self._operation, call, trace, trace.on_event)
                # Of each wait, and not of all of them together.
                request.extensions["timeout"] = self._limits
                try:
                    response = http.send(request, stream=True)
                    with contextlib.closing(response):
                        if response.status_code == 200:
                            for part in self._new_parts(response):
                                yield part
                                # The next part has all the time and all attempts, whatever the
                                # reader took for this one.
                                call = self._start_call()
                                call.start_attempt()
                        else:
                            reply = transport.make_reply(response, response.read(), call)
                            sleep(call.delay_after_refusal(reply))
                            continue
                except _OtherVersionError:
                    if self._asked_model == self.model:
                        raise self._other_text() from None
                    # The name alone means another one by now.
                    self._operation = self._ask(self.model)
                except httpx.RequestError as error:
                    self._note_end()
                    sleep(transport.delay_after(call, error, trace))
                else:
                    if not self._is_done:
                        self._note_end()
                        sleep(call.delay_after_failure("the stream broke off"))

    def _note_end(self) -> None:
        if self.text:
            self.num_resumed += 1

    def _new_parts(self, response: httpx.Response) -> Iterator[str]:
        """Parts of a stream behind those that have come."""
        kind = response.headers.get("content-type", _STREAM)
        if not kind.startswith(_STREAM):
            raise ServeError(
                f"{self._target.url} answers with {kind} and no stream",
                "Is it the address of an endpoint of a language model?",
            )
        known = self.text
        for line in whole_lines(response.iter_bytes()):
            if not line.startswith(_DATA):
                continue
            data = line.removeprefix(_DATA).strip()
            if data == _DONE:
                self._is_done = True
                break
            model, parts = self._read(data)
            if self.text and model != self.model:
                raise _OtherVersionError
            self.model = model
            for part in parts:
                size = min(len(part), len(known))
                if part[:size] != known[:size]:
                    raise self._other_text()
                new, known = part[size:], known[size:]
                if new:
                    self.text += new
                    yield new
        if self._is_done and known:
            raise self._other_text()

    def _read(self, data: str) -> tuple[str, list[str]]:
        """The model that an event names, and its parts of the text."""
        try:
            event = json.loads(data)
            if "error" in event:
                error = event["error"]
                # OpenAI's format has an object there.
                message = error["message"] if isinstance(error, dict) else error
                raise ServeError(f"{self._target.url}: {message}")
            return str(event["model"]), [_text_of(choice) for choice in event["choices"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ServeError(
                f"{self._target.url}: a part of the stream cannot be read: {data[:_MOST_SHOWN]}"
            ) from error

    def _other_text(self) -> ServeError:
        return ServeError(
            f"{self._target.url}: a stream of {self.model} broke off, and was another text when it "
            "was asked for again",
            "Replicas on machines of several kinds give texts that differ; ask for it anew.",
        )


def whole_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines of a stream, without their ends.

    Only a line feed ends one: others, such as U+2028, may be parts of a text. What has no end has
    broken off and is left out, but for the mark of the end.

    Args:
        pieces: Bytes as they come, cut anywhere.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if rest.startswith(_DATA.encode()) and rest.endswith(_DONE.encode()):
        yield rest.decode(errors="replace")


def _text_of(choice: dict[str, Any]) -> str:
    text = choice["text"] if "text" in choice else choice["delta"].get("content")
    if not isinstance(text, str | None):
        raise TypeError
    return text or ""


class _OtherVersionError(Exception):
    """A stream is asked for again, and another version answers."""
