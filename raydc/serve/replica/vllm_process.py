"""A running vLLM engine: a process with the weights, and a thread here that talks to it.

vLLM's `AsyncLLMEngine` belongs to an event loop. It gets one of its own, in a thread of the
replica: its work does not hold up the requests of others, and the texts of the answers are made
there. Runs in the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from raydc.bundle.growing_answer import AnswerOptions, GrowingAnswer
from raydc.serve.replica.answer_stream import AnswerStream, Delivery, Piece, deliver

logger = logging.getLogger("ray.serve")

Result = TypeVar("Result")

# vLLM gives up after ten minutes itself, unless VLLM_ENGINE_READY_TIMEOUT_S says otherwise.
_START_TIMEOUT_S = 900.0
# Golden prompts and adapters, beside answers that grow.
_CALL_TIMEOUT_S = 120.0
# A process that does not end by then is killed.
_SHUTDOWN_TIMEOUT_S = 10.0


@dataclass
class VllmWork:
    """A request.

    Attributes:
        owner: Version that it belongs to, which lives as long as the request.
        stream: Gets the parts of the answer.
        document: Codes that are read before it.
        answer: The answer so far.
        options: What was asked for.
        end_codes: Codes that end the answer.
        adapter: Adapter, as vLLM names it; None without one.
    """

    owner: object
    stream: AnswerStream
    document: Sequence[int]
    answer: GrowingAnswer
    options: AnswerOptions
    end_codes: Sequence[int]
    adapter: Any = None


class VllmProcess:
    """An engine of vLLM that has loaded a model.

    It ends when the last of its users has gone, see `hold`.

    Args:
        arguments: Arguments of `AsyncEngineArgs`.
        num_slots: Answers that grow at a time.

    Attributes:
        pass_sizes: Answers that grew in each of the last passes.
        num_slots: Answers that grow at a time.
        max_tokens: Most tokens of a document with its answer.

    Raises:
        Exception: What vLLM raises if it cannot load the model.
    """

    def __init__(self, arguments: dict[str, Any], num_slots: int) -> None:
        self.pass_sizes: deque[int] = deque(maxlen=1024)
        self.num_slots = num_slots
        self.max_tokens = int(arguments["max_model_len"])
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self._deliveries: list[Delivery] = []
        # The loop holds tasks weakly only.
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_users = 0
        self._engine: Any = None
        self._fault: str | None = None
        # A daemon, so that a replica that is killed does not wait for it.
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        try:
            self.call(self._start(arguments), _START_TIMEOUT_S)
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._engine = None
            self._loop.close()

    async def _start(self, arguments: dict[str, Any]) -> None:
        # Imported late: it takes seconds, and other engines do not need it.
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        self._engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**arguments))

    def call(self, work: Coroutine[Any, Any, Result], timeout_s: float = _CALL_TIMEOUT_S) -> Result:
        """Runs a coroutine in the loop of the engine and waits for it; for threads without one.

        Raises:
            TimeoutError: It has not ended in time; it is cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            # One of its own is told as it is.
            if not future.cancel():
                raise
            raise TimeoutError(f"vLLM has not answered for {timeout_s:g} seconds") from error

    def hold(
        self, user: object, let_go: Callable[[Any], Coroutine[Any, Any, object]]
    ) -> Callable[[], object]:
        """Keeps the process alive as long as an object.

        Args:
            user: The object; nothing here refers to it.
            let_go: Called with the engine of vLLM when the object has gone and others remain.

        Returns:
            Does at once what happens when the object has gone.
        """
        self._loop.call_soon_threadsafe(self._add_user)
        # Garbage may be collected in any thread.
        return weakref.finalize(user, self._loop.call_soon_threadsafe, self._release, let_go)

    def _add_user(self) -> None:
        self._num_users += 1

    def _release(self, let_go: Callable[[Any], Coroutine[Any, Any, object]]) -> None:
        self._num_users -= 1
        if self._num_users == 0:
            self._keep(self._end())
        else:
            self._keep(_ignore_errors(let_go(self._engine)))

    async def _end(self) -> None:
        try:
            self._engine.shutdown(timeout=_SHUTDOWN_TIMEOUT_S)
        finally:
            # What `shutdown` has left to this loop comes first.
            self._loop.call_later(0.1, self._loop.stop)

    @property
    def is_running(self) -> bool:
        """Whether its thread is there."""
        return self._thread.is_alive()

    @property
    def fault(self) -> str | None:
        """Why it cannot answer any more; None while it can."""
        if self._fault is None and self._engine.errored:
            self._fault = "the process of vLLM has ended"
        return self._fault

    def submit(self, work: VllmWork) -> None:
        """Adds a request."""
        self._loop.call_soon_threadsafe(self._begin, work)

    def _begin(self, work: VllmWork) -> None:
        task = self._keep(self._answer(work))

        def cancel() -> None:
            # The loop may have ended, and with it everything that could be cancelled.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(task.cancel)

        work.stream.when_cancelled(cancel)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, work: VllmWork) -> None:
        try:
            await self._grow(work)
        except asyncio.CancelledError:
            # The client has gone; vLLM has been told.
            return
        except Exception as error:
            logger.exception("an answer of vLLM failed")
            self._put(work.stream, Piece("", len(work.answer.codes), error=error))

    async def _grow(self, work: VllmWork) -> None:
        outputs = self.generate(
            work.document, _sampling(work.options, work.end_codes), work.adapter
        )
        answer = work.answer
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                (found,) = output.outputs
                text = ""
                for code in found.token_ids:
                    text += answer.add_code(code)
                    # What vLLM has computed behind a stop string is not part of the answer.
                    if answer.finish_reason is not None:
                        break
                self._put(work.stream, Piece(text, len(answer.codes), answer.finish_reason))
                # One that vLLM has ended as well needs no abort.
                if answer.finish_reason is not None and not output.finished:
                    return
        if answer.finish_reason is None:
            raise RuntimeError(f"vLLM ended an answer after {len(answer.codes)} tokens")

    def generate(self, document: Sequence[int], sampling: Any, adapter: Any = None) -> Any:
        """Outputs of vLLM behind a document, an asynchronous generator of the engine's loop.

        Args:
            document: Codes that are read.
            sampling: `SamplingParams` of vLLM.
            adapter: `LoRARequest` of vLLM; None without adapters.
        """
        return self._engine.generate(
            {"prompt_token_ids": list(document)},
            sampling,
            str(next(self._numbers)),
            lora_request=adapter,
        )

    async def add_adapter(self, adapter: Any) -> None:
        """Loads an adapter, a `LoRARequest` of vLLM, before a request needs it."""
        await self._engine.add_lora(adapter)

    def _put(self, stream: AnswerStream, piece: Piece) -> None:
        if not self._deliveries:
            # All answers of a pass come in one turn of the loop.
            self._loop.call_soon(self._flush)
        self._deliveries.append((stream, piece))

    def _flush(self) -> None:
        deliveries, self._deliveries = self._deliveries, []
        self.pass_sizes.append(len(deliveries))
        deliver(deliveries)


async def _ignore_errors(work: Coroutine[Any, Any, object]) -> None:
    """Waits for what nobody depends on."""
    try:
        await work
    except Exception:
        logger.exception("vLLM could not let an adapter go")


def _sampling(options: AnswerOptions, end_codes: Sequence[int]) -> Any:
    """`SamplingParams` of vLLM for a request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    chosen = options.sampling
    return SamplingParams(
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        # A greedy answer needs no random numbers, and vLLM computes those of a seed one by one.
        seed=chosen.seed if chosen.temperature else None,
        max_tokens=options.max_tokens,
        stop_token_ids=list(end_codes),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
