"""A text of a language model as it comes, which goes on where a replica dies.

An answer depends on nothing but its request and its version. So a stream that breaks off is asked
for again, with the same seed and of the same version, and what has come already is left out.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from time import sleep
from typing import Any

import httpx

from raydc.client import operations, transport
from raydc.client.retry import CONNECT_TIMEOUT_S, MAX_RETRIES, Call
from raydc.errors import ServeError

_DATA, _DONE = "data: ", "data: [DONE]"
_NUM_SEEDS = 2**63


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
        self._options = {"seed": secrets.randbelow(_NUM_SEEDS), **options, "stream": True}
        self._id = uuid.uuid4().hex
        self._is_done = False
        self.text = ""
        self.model = model
        self.num_resumed = 0
        self._operation = self._ask(model)

    def _ask(self, model: str) -> operations.Operation[Any]:
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
            ServeError: The model failed, or gave another text the second time.
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
                                # The next part has all the time and all attempts again.
                                call = self._start_call()
                                call.start_attempt()
                                yield part
                        else:
                            reply = transport.make_reply(response, response.read(), call)
                            sleep(call.delay_after_refusal(reply))
                            continue
                except _OtherVersionError:
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
        known = self.text
        for line in response.iter_lines():
            if line == _DONE:
                self._is_done = True
                break
            if not line.startswith(_DATA):
                continue
            event = json.loads(line.removeprefix(_DATA))
            if "error" in event:
                raise ServeError(f"{self._target.url}: {event['error']['message']}")
            if self.text and event["model"] != self.model:
                raise _OtherVersionError
            self.model = event["model"]
            for choice in event["choices"]:
                part = choice["text"] if "text" in choice else choice["delta"].get("content", "")
                size = min(len(part), len(known))
                if part[:size] != known[:size]:
                    raise self._other_text()
                part, known = part[size:], known[size:]
                if part:
                    self.text += part
                    yield part
        if self._is_done and known:
            raise self._other_text()

    def _other_text(self) -> ServeError:
        return ServeError(
            f"{self._target.url}: a stream of {self.model} broke off, and was another text when it "
            "was asked for again",
            "Replicas on machines of several kinds give texts that differ; ask for it anew.",
        )


class _OtherVersionError(Exception):
    """A stream is asked for again, and another version answers."""
