"""Kept on purpose: what a client without a good token is told."""

from __future__ import annotations

import json

from tests.compat.scenes import get
from tests.frontend.http_fakes import edge
from ts_frontend.http.tokens import Tokens


async def test_a_bad_token_is_a_400(tokens: Tokens) -> None:
    """TorchServe answered a missing or wrong token with 400 InvalidKeyException, not 401."""
    async with edge(tokens=tokens) as e:
        status, text = await get(e.url("/predictions/m"), headers={"Authorization": "Bearer no"})
        assert status == 400
        assert json.loads(text) == {
            "code": 400,
            "type": "InvalidKeyException",
            "message": "Token Authorization failed. "
            "Token either incorrect, expired, or not provided correctly",
        }


async def test_an_unknown_path_without_a_token_is_a_400(tokens: Tokens) -> None:
    """TorchServe checked the token before it looked at the path: 400 and not 404."""
    async with edge(tokens=tokens) as e:
        assert (await get(e.url("/nowhere")))[0] == 400
        assert (await get(e.url("/nowhere", 1)))[0] == 400


async def test_token_route_says_authentication_and_answers_a_line_feed(tokens: Tokens) -> None:
    """TorchServe's /token says "Authentication" where all else says "Authorization", and its good
    answer is an empty text with a line feed."""
    api = json.loads(tokens.path.read_text())["API"]["key"]
    async with edge(tokens=tokens) as e:
        status, text = await get(e.url("/token?type=inference", 1))
        assert status == 400
        assert "Token Authentication failed." in text
        auth = {"Authorization": f"Bearer {api}"}
        assert await get(e.url("/token?type=inference", 1), headers=auth) == (200, "\n")


async def test_metrics_need_no_token(tokens: Tokens) -> None:
    """TorchServe's metrics listener never checked tokens."""
    async with edge(tokens=tokens) as e:
        assert (await get(e.url("/metrics", 2)))[0] == 200
