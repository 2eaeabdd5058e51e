"""Functions for a single request."""

from __future__ import annotations

import pytest
from scripted_endpoint import OK, Scripted, error

from raydc import client
from raydc.errors import ServeError


def test_locate_tries_the_root_then_the_name(endpoint: Scripted) -> None:
    assert client.locate(endpoint.url, "digits") == endpoint.url
    endpoint.answers = [error(404, "no model 'digits'"), OK]
    assert client.locate(endpoint.url, "digits") == f"{endpoint.url}/digits"
    assert [path for _, path, _, _ in endpoint.requests[1:]] == [
        "/v2/models/digits",
        "/digits/v2/models/digits",
    ]
    endpoint.answers = [error(404, "no model 'digits'")]
    with pytest.raises(ServeError, match="no model 'digits'"):
        client.locate(endpoint.url, "digits")
