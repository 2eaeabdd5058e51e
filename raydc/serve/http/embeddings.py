"""Handler of `/v1/embeddings`. Runs in the replica."""

from __future__ import annotations

import numpy as np
from starlette.responses import Response

from raydc.errors import DataError
from raydc.features import Record
from raydc.serve.http.named_version import find_named, require_json
from raydc.serve.http.request import OPENAI, Request, json_response
from raydc.serve.protocol.embedding_body import describe_embeddings, parse_embeddings
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.loaded_version import Array, LoadedVersion
from raydc.serve.replica.service import Service


class EmbeddingHandler:
    """Answers requests for embeddings. Raises RequestError for what it refuses."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request, loaded: LoadedVersion) -> Response:
        """Answers `/v1/embeddings`.

        Args:
            request: Request whose body has not been read yet.
            loaded: Version that was chosen for it.
        """
        settings = loaded.settings
        if loaded.embedder is None:
            # A model of pairs is an encoder too, and has no vector of one text.
            where = "/predict" if loaded.engine is None else f"/{OPENAI}/completions"
            raise RequestError(404, f"{settings.model!r} has no embeddings; it answers at {where}")
        require_json(request)
        slot = await self._service.admission.admit()
        try:
            content = await slot.read(request, settings.max_request_bytes)
            body = parse_embeddings(content, settings.max_request_rows)
            found = find_named(self._service, request, loaded, body.model)
            embedder = found.embedder
            assert embedder is not None
            body.require_width(embedder.width)
            await slot.start_computing()
            # In a thread: a tokenizer takes milliseconds for long texts.
            x = await self._service.run_in_thread(lambda: self._encode(found, body.texts))
            vectors_BD = await self._compute(found, x)
            name, num_tokens = f"{settings.model}:{found.version}", embedder.count_tokens(x)
            response = await self._service.run_in_thread(
                lambda: json_response(describe_embeddings(vectors_BD, body.form, name, num_tokens))
            )
        finally:
            slot.release()
        request.rows = len(vectors_BD)
        return response

    def _encode(self, loaded: LoadedVersion, texts: list[str]) -> Record:
        assert loaded.embedder is not None
        try:
            return loaded.embedder.encode(texts)
        except DataError as error:
            raise RequestError(400, error.message, param="input") from error

    async def _compute(self, loaded: LoadedVersion, x: Record) -> Array:
        assert loaded.embedding_batcher is not None
        vectors_BD = await self._service.compute_parts(loaded.embedding_batcher, x)
        if not np.isfinite(vectors_BD).all():
            row = int(np.argwhere(~np.isfinite(vectors_BD))[0, 0])
            raise RequestError(500, f"input[{row}]: the model gave a value that is not finite")
        return vectors_BD
