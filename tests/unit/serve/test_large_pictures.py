"""Pictures that take long to decode wait for each other, and no one else waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from in_process import Store, request, run
from PIL import Image

from raydc.features import images
from raydc.serve.http.routes import Routes
from raydc.serve.replica.service import Service

SMALL, LARGE = 100, 4200


def png(side: int, folder: Path) -> bytes:
    path = folder / f"{side}.png"
    Image.fromarray(np.zeros((side, side), dtype=np.uint8)).save(path)
    return path.read_bytes()


def test_twelve_large_pictures_do_not_stop_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    decode: Callable[..., Any] = images.to_pixels

    def held(image: Any, *more: Any) -> Any:
        if image.width == LARGE:
            assert go_on.wait(timeout=60)
        return decode(image, *more)

    monkeypatch.setattr(images, "to_pixels", held)
    large, ordinary = png(LARGE, tmp_path), png(SMALL, tmp_path)
    headers = {"content-type": "image/png"}

    async def scenario(service: Service, routes: Routes) -> None:
        waiting = [
            asyncio.create_task(routes.respond(request("POST", "/predict", large, headers)))
            for _ in range(12)
        ]
        await asyncio.sleep(0)
        try:
            answer = await routes.respond(request("POST", "/predict", ordinary, headers))
            assert answer.status_code == 200
            assert not any(task.done() for task in waiting)
        finally:
            go_on.set()
        codes = [response.status_code for response in await asyncio.gather(*waiting)]
        assert codes == [200] * 12

    run(Store(tmp_path, small_models.picture_features()).settings(), scenario)
