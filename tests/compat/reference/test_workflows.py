"""What clients of workflows get (reference §10.2, §10.3): none can be registered."""

from __future__ import annotations

import json
from dataclasses import dataclass

import aiohttp
import pytest

from tests.frontend.http_fakes import Edge, edge
from ts_frontend.config import Address
from ts_frontend.http.tokens import Tokens

INFERENCE, MANAGEMENT = 0, 1
NOT_FOUND = "Requested resource is not found, please refer to API document."
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."


def error(code: int, kind: str, message: str) -> dict[str, object]:
    return {"code": code, "type": kind, "message": message}


def unknown(workflow: str) -> dict[str, object]:
    return error(404, "WorkflowNotFoundException", f"Workflow not found: {workflow}")


DISABLED = error(400, "BadRequestException", "Registering new workflows is disabled.")
NO_METHOD = error(405, "MethodNotAllowedException", NOT_ALLOWED)
NO_PATH = error(404, "ResourceNotFoundException", NOT_FOUND)
EMPTY: dict[str, object] = {"workflows": []}


@dataclass(frozen=True)
class Row:
    """One request and its answer."""

    listener: int
    method: str
    path: str
    status: int
    body: dict[str, object]

    def __str__(self) -> str:
        section = "10.2" if self.listener == MANAGEMENT else "10.3"
        return f"{section} {self.method} {self.path}"


ROWS = [
    Row(MANAGEMENT, "POST", "/workflows", 400, DISABLED),
    Row(MANAGEMENT, "POST", "/workflows?url=w.war&workflow_name=w", 400, DISABLED),
    Row(MANAGEMENT, "GET", "/workflows", 200, EMPTY),
    Row(MANAGEMENT, "GET", "/workflows/", 200, EMPTY),
    Row(MANAGEMENT, "GET", "/workflows?limit=5&next_page_token=2", 200, EMPTY),
    Row(MANAGEMENT, "GET", "/workflows?limit=x&next_page_token=-1", 200, EMPTY),
    # Where the page ends with the last entry there is a token, as in the list of models.
    Row(MANAGEMENT, "GET", "/workflows?limit=0", 200, {"nextPageToken": "0", **EMPTY}),
    Row(MANAGEMENT, "GET", "/workflows/w", 404, unknown("w")),
    Row(MANAGEMENT, "GET", "/workflows/w/x", 404, unknown("w")),
    Row(MANAGEMENT, "DELETE", "/workflows/w", 404, unknown("w")),
    Row(MANAGEMENT, "PUT", "/workflows", 405, NO_METHOD),
    Row(MANAGEMENT, "DELETE", "/workflows", 405, NO_METHOD),
    Row(MANAGEMENT, "PUT", "/workflows/w", 405, NO_METHOD),
    Row(MANAGEMENT, "POST", "/workflows/w", 405, NO_METHOD),
    Row(MANAGEMENT, "GET", "/workflows/w/x/y", 404, NO_PATH),
    Row(MANAGEMENT, "GET", "/wfpredict/w", 404, NO_PATH),
    Row(INFERENCE, "POST", "/wfpredict/w", 404, unknown("w")),
    Row(INFERENCE, "GET", "/wfpredict/w", 404, unknown("w")),
    Row(INFERENCE, "PUT", "/WfPredict/w/x", 404, unknown("w")),
    Row(INFERENCE, "POST", "/wfpredict", 404, NO_PATH),
    Row(INFERENCE, "GET", "/workflows", 404, NO_PATH),
]


async def ask(e: Edge, row: Row, token: str | None = None) -> tuple[int, object]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = e.url(row.path, row.listener)
    async with (
        aiohttp.ClientSession() as session,
        session.request(row.method, url, headers=headers, data=b"x") as answer,
    ):
        return answer.status, json.loads(await answer.text())


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_workflows(row: Row) -> None:
    async with edge() as e:
        assert await ask(e, row) == (row.status, row.body)


@pytest.mark.parametrize("row", [ROWS[0], ROWS[2], ROWS[7], ROWS[16]], ids=str)
async def test_workflows_need_the_token_of_their_api(row: Row, tokens: Tokens) -> None:
    """The check comes before everything else, as for models."""
    keys = {kind: entry["key"] for kind, entry in json.loads(tokens.path.read_text()).items()}
    right, wrong = ("management", "inference")[:: 1 if row.listener == MANAGEMENT else -1]
    async with edge(tokens=tokens) as e:
        assert await ask(e, row, keys[right]) == (row.status, row.body)
        for token in (None, keys[wrong]):
            status, body = await ask(e, row, token)
            assert (status, body["type"]) == (400, "InvalidKeyException")  # type: ignore[index]


async def test_both_are_served_on_a_shared_port(tmp_path: object) -> None:
    address = Address("unix", "", 0, f"{tmp_path}/s")
    async with (
        edge(inference_address=address, management_address=address),
        aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(address.path)) as session,
    ):
        async with session.get("/workflows") as answer:
            assert json.loads(await answer.text()) == EMPTY
        async with session.post("/wfpredict/w") as answer:
            assert json.loads(await answer.text()) == unknown("w")
