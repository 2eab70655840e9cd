"""What hurt TorchServe's users and is otherwise here: one test for each row of the second table
of docs/compatibility.md."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.compat.reference.web import web_server
from tests.core_rig import Rig, Site, model_folder, never, states, until
from tests.fakes import FakeWorker, LoadFailed, hold, make_request, run_virtual
from tests.frontend.http_fakes import FakeLogs, edge, post, talk
from tests.frontend.http_fakes import until as turn
from tests.frontend.test_cli_processes import Shell, shell
from tests.frontend.test_core_download import dripping
from tests.frontend.test_core_store import mar
from tests.handlers.optional_packages import pretend
from tests.wheels import make_wheel
from tests.worker.test_rank_group import GroupRig
from ts.context import Context
from ts.handler_utils.micro_batching import MicroBatching
from ts.service import PredictionException, Service
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.request_envelope.json import JSONEnvelope
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.timeit_decorator import timeit
from ts_archiver import pack_workflow
from ts_frontend.config import Address, Config, load_config
from ts_frontend.core.changes import NOT_REGISTERED
from ts_frontend.core.devices import Devices
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer, Kind
from ts_frontend.core.nvml import Gpu
from ts_frontend.core.slot import BACK_OFF, State
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.errors import (
    BadRequest,
    DownloadFailed,
    Internal,
    InvalidModel,
    ModelNotFound,
    ModelSetupFailed,
    RequestTimeout,
    ServiceUnavailable,
    VersionNotFound,
)
from ts_frontend.http.server import Listener
from ts_frontend.http.tokens import Tokens, mounted_keys
from ts_frontend.log_files import FileSink
from ts_frontend.logs import Logs
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import default_path, load_spec
from ts_frontend.model_snapshot import ModelSnapshot, SavedVersion, model_snapshot
from ts_frontend.properties import parse
from ts_frontend.server import _running
from ts_frontend.snapshot_store import Folder
from ts_worker.backend.base import Ranks, ReplySink, WorkerSpec
from ts_worker.backend.group import rank_specs
from ts_worker.messages import Predict, Reply, Request, Response, pack_headers
from workflow_archiver.arg_parser import ArgParser

__all__ = ["shell"]  # a fixture

NOON = datetime(2024, 5, 30, 12).timestamp()


def key(tokens: Tokens, kind: str) -> str:
    """A key as a client reads it."""
    return str(json.loads(tokens.path.read_text())[kind]["key"])


async def ask(
    session: aiohttp.ClientSession, path: str, token: str | None = None, method: str = "GET"
) -> tuple[int, str]:
    """Status and text of a request."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with session.request(method, path, headers=headers) as answer:
        return answer.status, await answer.text()


def send(rig: Rig, body: bytes = b"x") -> asyncio.Task[Answer]:
    return asyncio.create_task(rig.inference.predict("m", None, make_request(body)))


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "ValueError: no weights", "Traceback\n  line 3\nValueError: no weights")


def properties(folder: Path, *lines: str) -> None:
    (folder / "store").mkdir(exist_ok=True)
    (folder / "config.properties").write_text("\n".join(["model_store=store", *lines]))


# Metrics


@pytest.mark.parametrize("mode", ["log", "legacy", "prometheus"])
async def test_metrics_are_shown_in_every_mode(mode: str) -> None:
    """TorchServe's /metrics was empty in the mode "log", its default; the log lines stay."""
    logs = FakeLogs()
    recorder = Recorder(load_spec(default_path()), logs, host="h", mode=mode)  # type: ignore[arg-type]
    recorder.http_status(200)
    assert b'\nRequests2XX{Level="Host",Hostname="h",} 1.0\n' in recorder.render([])
    assert len(logs.ts) == (mode != "prometheus")


def test_latencies_are_counters_and_histograms() -> None:
    """TorchServe summed microseconds up in two counters, which give averages only."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h")
    recorder.meter("m", "default").answered(20_000.0, 400.0)
    text = recorder.render([]).decode()
    labels = 'model_name="m",model_version="default",hostname="h",'
    for name, value in (("inference", "20000.0"), ("queue", "400.0")):
        assert f"ts_{name}_latency_microseconds{{{labels}}} {value}\n" in text
    for name, bound in (("request", "0.025"), ("queue", "5.0E-4")):
        sample = f"ts_inference_{name}_duration_seconds_bucket{{{labels}"
        assert f'{sample}le="{bound}",}} 1.0\n' in text


# Logs


def test_own_lines_stand_in_the_log_once(tmp_path: Path) -> None:
    logs = Logs(Config(log_location=tmp_path, metrics_location=tmp_path), stdout=None)
    logs.open()
    logging.getLogger("ts_frontend.x").warning("a line")
    logs.close()
    assert (tmp_path / "ts_log.log").read_text().count("a line") == 1


def test_nobody_forges_entries_of_the_log(tmp_path: Path) -> None:
    """TorchServe's pattern ends with the message as it is."""
    logs = Logs(Config(log_location=tmp_path, metrics_location=tmp_path), stdout=None)
    logs.open()
    try:
        url = "a\n1999-12-31T00:00:00,000 [ERROR] main x - forged"
        logging.getLogger("ts_frontend").error("Failed to load model: %s", url)
    finally:
        logs.close()
    first, second = (tmp_path / "ts_log.log").read_text().splitlines()
    assert first.endswith(" - Failed to load model: a")
    assert second == "    1999-12-31T00:00:00,000 [ERROR] main x - forged"


def test_each_rolled_file_of_a_day_is_kept(tmp_path: Path) -> None:
    """TorchServe's name of a rolled file has the day only."""
    sink = FileSink(tmp_path / "a.log", max_bytes=8)
    sink.open()
    for text in ("first\n", "second\n", "third\n"):
        sink.write(text)
    sink.close()
    rolled = [gzip.decompress(path.read_bytes()) for path in tmp_path.glob("*.gz")]
    assert sorted(rolled) == [b"first\n", b"second\n"]


def test_a_log4j2_file_counts_for_its_levels(tmp_path: Path) -> None:
    (tmp_path / "log4j2.xml").write_text(
        '<Configuration><Appenders><Console name="out"><JSONPatternLayout/></Console></Appenders>'
        '<Loggers><Logger name="ACCESS_LOG" level="off"/></Loggers></Configuration>'
    )
    properties(tmp_path, "log_format=json")
    environ = {"LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path)}
    config = load_config({"log_config": "log4j2.xml"}, environ, tmp_path)
    logs = Logs(config, stdout=None)
    logs.open()
    logs.access("not wanted")
    logs.close()
    assert (tmp_path / "access_log.log").read_text() == ""
    (line,) = (tmp_path / "ts_log.log").read_text().splitlines()
    assert "appenders out (" in json.loads(line)["message"]


# Requests that TorchServe left without an answer, or with a wrong one


def test_an_expired_request_gets_a_408_or_a_504() -> None:
    """Past clientTimeoutInMills TorchServe dropped the request and sent nothing, ever; an answer
    that came after the deadline went the same way."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(client_timeout=500)
            running = send(rig)
            await rig.worker.received()
            with pytest.raises(
                RequestTimeout, match=r"waited .* clientTimeoutInMills=500"
            ) as caught:
                await send(rig)
            assert caught.value.status == 408
            assert asyncio.get_running_loop().time() == pytest.approx(0.5)
            with pytest.raises(RequestTimeout, match="by its worker") as caught:
                await running
            assert caught.value.status == 504
            # Nobody waits for it: the handler may learn so.
            (batch,) = rig.worker.batches
            assert rig.worker.cancelled == [batch.requests[0].id]
            rig.worker.finish()

    run_virtual(main)


async def test_a_silent_connection_is_closed() -> None:
    """TorchServe had no time limit for it."""

    def hurry(listener: Listener) -> None:
        assert listener._head_timeout == 30
        listener._head_timeout = 0.1

    async with edge(tune=hurry) as e:
        assert await talk(e.port) == b""
        assert await talk(e.port, b"GET /ping HTT") == b""


async def test_explanations_and_predictions_share_no_batch(site: Site) -> None:
    """TorchServe batched them together, and its handlers did with all what the first one asked."""
    site.backend.behaviour = hold
    await site.register(site.model(), 1, batch_size=4)
    first = send(site)
    await site.worker.received()
    kinds: list[Kind] = ["predict", "explain", "predict"]
    waiting = [
        asyncio.create_task(site.inference.predict("m", None, make_request(), kind))
        for kind in kinds
    ]
    for count in range(2, 5):
        site.worker.finish()
        await site.worker.received(count)
    site.worker.finish()
    await asyncio.gather(first, *waiting)
    assert [len(batch.requests) for batch in site.worker.batches] == [1, 1, 1, 1]


async def test_requests_that_wait_for_an_unregistered_model_get_a_404(site: Site) -> None:
    """TorchServe dropped the queue of a model that was unregistered, and answered none of it."""
    site.backend.behaviour = hold
    await site.register(site.model(), 1)
    running, waiting = send(site, b"run"), send(site)
    await site.worker.received()
    leaving = asyncio.create_task(site.management.unregister("m", None))
    with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
        await waiting
    site.worker.finish()
    assert (await running).body == b"run"
    await leaving


def test_scaling_down_answers_the_current_batch() -> None:
    """In TorchServe it was a race: the batch went back to the queue, or failed "Worker died."."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            running = send(rig, b"run")
            await rig.worker.received()
            change = rig.supervisor.scale(model, 0, 0)
            rig.worker.finish()
            assert (await running).body == b"run"
            await rig.supervisor.settle(change, None)

    run_virtual(main)


def test_rows_that_a_dead_worker_had_not_begun_go_to_the_next() -> None:
    """TorchServe failed whatever a worker held when it died. Here a quick worker is sent batches
    ahead, and only the one it was at fails."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            worker = rig.worker
            for _ in range(1000):  # until it has shown that it is quick
                tasks = [send(rig, b"%d" % number) for number in range(2)]
                await until(lambda: bool(worker.current))
                if len(worker.current) == 2:
                    break
                for _ in tasks:
                    await until(lambda: bool(worker.current))
                    worker.finish()
                await asyncio.gather(*tasks)
            worker.die(1, None)
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await tasks[0]
            await asyncio.sleep(BACK_OFF[0])
            await until(lambda: rig.worker is not worker)
            await rig.worker.received()
            rig.worker.finish()
            assert (await tasks[1]).body == b"1"

    run_virtual(main)


def test_with_all_workers_given_up_requests_fail_at_once() -> None:
    """TorchServe let them wait until the queue was full: nobody would ever take them."""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add(max_retry_timeout=1)
            rig.supervisor.scale(model, 1, 1)
            waiting = send(rig)
            with pytest.raises(ServiceUnavailable):
                await waiting
            assert states(model) == [State.DEAD]
            with pytest.raises(ServiceUnavailable):
                await send(rig)

    run_virtual(main)


def test_a_describe_call_ends_with_the_response_timeout() -> None:
    """TorchServe did not limit a handler's answer to customized=true at all."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(response_timeout=3)
            with pytest.raises(Internal):
                await describe_itself(model, make_request())
            assert asyncio.get_running_loop().time() == pytest.approx(3)

    run_virtual(main)


def test_an_idle_worker_does_not_wait_for_a_full_batch() -> None:
    """TorchServe waited maxBatchDelay although a worker had nothing to do; batchPolicy: delay still
    does."""

    async def main() -> None:
        for policy, wait in (("eager", 0.0), ("delay", 0.2)):
            async with Rig() as rig:
                await rig.serve(batch_size=8, max_batch_delay=200, batch_policy=policy)
                before = asyncio.get_running_loop().time()
                await send(rig)
                assert asyncio.get_running_loop().time() - before == pytest.approx(wait)

    run_virtual(main)


def test_a_handlers_error_is_never_a_success() -> None:
    """TorchServe sent the code of a PredictionException as it was: 200 with an error's text."""

    def handle(data: object, context: object) -> list[object]:
        raise PredictionException("fine?", 200)

    outcome = Service("m", "/nowhere", None, handle, None, 1).infer([{}], [{}], {0: "id"})
    assert (outcome.code, outcome.message) == (500, "fine?")


def test_a_bad_request_need_not_fail_its_batch() -> None:
    """What TorchServe's handlers raise answers the whole batch, whoever is to blame."""

    def handle(data: list[bytes], context: object) -> list[object]:
        if b"bad" in data:
            raise PredictionException("no cat", 422, request_index=data.index(b"bad"))
        return list(data)

    def pick(numbers: list[int]) -> tuple[list[Any], list[Any], dict[int, str]]:
        rows = [[b"a", b"bad"][number] for number in numbers]
        return [{} for _ in rows], rows, {at: f"id{n}" for at, n in enumerate(numbers)}

    service = Service("m", "/nowhere", None, handle, None, 2)
    failed = service.infer(*pick([0, 1]))
    first, second = service.settle(failed, {0: "id0", 1: "id1"}, pick)
    assert (first.rows, first.outcome[:2]) == ([1], (422, "no cat"))
    assert (second.rows, second.outcome.predictions[0].body) == ([0], b"a")


def test_input_that_cannot_be_read_fails_its_own_request() -> None:
    """TorchServe's built-in handlers and envelopes raised: nobody of the batch was answered."""
    envelope = JSONEnvelope(lambda data, context: data)
    service = Service("m", "/nowhere", None, envelope.handle, None, 2)
    rows = [{"body": b'{"instances": [1]}'}, {"body": b"no JSON"}]
    outcome = service.infer([{}, {}], rows, {0: "id0", 1: "id1"})
    assert (outcome.code, outcome.message, outcome.blamed) == (503, "Prediction failed", (1,))


async def test_an_answer_that_is_too_long_costs_itself_only() -> None:
    """TorchServe closed the connection to the worker and answered its batch "Worker died."."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve(batch_size=2, max_response_size=3)
        first = send(rig)
        await rig.worker.received()
        long, short = send(rig, b"four"), send(rig, b"two")
        rig.worker.finish()
        await rig.worker.received(2)
        rig.worker.finish()
        text = r"^The answer of 4 bytes is longer than max_response_size=3; raise that key"
        with pytest.raises(Internal, match=text) as caught:
            await long
        assert caught.value.status == 500
        assert ((await first).body, (await short).body) == (b"x", b"two")
        assert rig.backend.alive == [rig.worker]


async def test_a_client_that_leaves_takes_its_request_along() -> None:
    """TorchServe did not notice that a client had gone and computed its answer all the same."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with edge(behaviour=wait) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(post("/predictions/m"))
        await begun.wait()
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_413_has_a_body_that_names_the_key() -> None:
    """TorchServe's 413 had no body, no request id and no line in the access log."""
    async with edge(max_request_size=10) as e:
        answer = await talk(e.port, post("/predictions/m", b"x" * 11))
        assert answer.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
        assert b"x-request-id: " in answer
        assert b"raise max_request_size in config.properties" in answer
        await turn(lambda: len(e.logs.access_lines) == 1)


async def test_connection_close_of_the_client_counts() -> None:
    """TorchServe kept the connection of a client that had asked to close it."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m"))  # reads until the server closes
    assert b"\r\nconnection: close\r\n" in answer


async def test_a_request_line_may_be_longer_than_4096_bytes() -> None:
    """TorchServe answered 400 Invalid HTTP message, which presigned URLs in a query run into."""
    async with edge() as e:
        answer = await talk(e.port, post("/invocations?model_name=m&url=" + "x" * 6000))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_headers_may_be_longer_than_8192_bytes_together() -> None:
    """TorchServe's limit held for their sum."""
    headers = [f"X-{number}: {'x' * 4000}" for number in range(4)]
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b"", *headers))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_made_up_method_is_a_400() -> None:
    """TorchServe took any word for a method, and predicted."""
    async with edge() as e:
        answer = await talk(e.port, b"FOO /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"message": "Invalid HTTP message."' in answer


async def test_a_stream_of_one_message_is_a_whole_answer() -> None:
    """TorchServe wrote no correct response where the first message of a stream was its last."""
    headers = pack_headers([("ts_stream_next", "false")])

    async def only(request: Request) -> Answer:
        return Answer(200, "", headers, b"only")

    async with edge(behaviour=only) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert answer.endswith(b"\r\ncontent-length: 4\r\nconnection: close\r\n\r\nonly")


def test_a_form_may_name_the_class_to_explain() -> None:
    """TorchServe's handlers gave a form field, which is bytes, to captum as the target."""

    class Handler(BaseHandler):
        def get_insights(self, data: object, inputs: object, target: object) -> list[object]:
            return [target]

    for given, target in ((bytearray(b"2"), 2), ("1", 1), (3, 3), (b"cat", b"cat"), (None, 0)):
        assert Handler().explain_handle(None, [{"body": b"x", "target": given}]) == [target]


# Tokens and probes


async def test_probes_need_no_token(tokens: Tokens) -> None:
    """TorchServe wanted the inference token for /ping, which no load balancer can send, and had
    neither /livez nor /readyz."""
    async with edge(tokens=tokens) as e, aiohttp.ClientSession() as session:
        for path in ("/ping", "/livez", "/readyz"):
            assert (await ask(session, e.url(path)))[0] == 200
        e.management.lacks = ["Model m version 1.0: 0 of 1 workers have loaded."]
        status, text = await ask(session, e.url("/readyz"))
        assert status == 503
        assert json.loads(text)["missing"] == e.management.lacks


async def test_management_works_on_a_shared_port_with_tokens(
    tokens: Tokens, tmp_path: Path
) -> None:
    """On one port TorchServe wanted both tokens in one header, and its inference API took the
    route /models/{m}/{v} for itself."""
    shared = Address("unix", "", 0, str(tmp_path / "s"))
    async with edge(tokens=tokens, inference_address=shared, management_address=shared):
        connector = aiohttp.UnixConnector(shared.path or "")
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            for path in ("/models", "/models/m", "/models/m/2.0"):
                assert (await ask(session, path, key(tokens, "management")))[0] == 200
                assert (await ask(session, path, key(tokens, "inference")))[0] == 400
            for path in ("/predictions/m", "/models/m/invoke"):
                assert (await ask(session, path, key(tokens, "inference")))[0] == 200
                assert (await ask(session, path, key(tokens, "management")))[0] == 400


async def test_the_log_has_no_secrets_of_urls(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """TorchServe logged each URL as it came."""
    url = "https://user:s3cr3t@host.invalid/m.mar?X-Amz-Signature=s3cr3t"
    await site.management.startup.load(url)
    assert "Failed to load model: https://host.invalid/m.mar, " in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_only_the_token_route_is_the_token_route(tokens: Tokens) -> None:
    """TorchServe took every management request with "/token" anywhere in it for the token route."""
    async with edge(tokens=tokens) as e, aiohttp.ClientSession() as session:
        path = e.url("/models/m?from=/token", 1)
        assert (await ask(session, path, key(tokens, "management")))[0] == 200
        assert (await ask(session, path, key(tokens, "API")))[0] == 400


async def test_the_key_file_is_the_owners_and_goes_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe left its key file behind; only --stop, in the same folder, removed it. Here the
    whole server starts, without models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    somewhere = Address("unix", "", 0, str(tmp_path / "s"))
    config = Config(
        model_store=tmp_path / "store",
        temp_dir=tmp_path,
        log_location=tmp_path / "logs",
        metrics_location=tmp_path / "logs",
        inference_address=somewhere,
        management_address=somewhere,
        enable_metrics_api=False,
        disable_system_metrics=True,
    )
    path = tmp_path / "key_file.json"
    async with _running(config):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(json.loads(path.read_text())) == ["management", "inference", "API"]
    assert not path.exists()
    monkeypatch.setenv("TS_INFERENCE_TOKEN", "open-sesame")
    async with _running(config):
        assert list(json.loads(path.read_text())) == ["management", "API"]
        connector = aiohttp.UnixConnector(somewhere.path or "")
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            assert (await ask(session, "/predictions/m"))[0] == 400
            assert (await ask(session, "/predictions/m", "open-sesame"))[0] == 404


def test_a_key_may_come_from_a_mounted_file(tmp_path: Path) -> None:
    """In TorchServe all keys are the server's own and random."""
    path = tmp_path / "token"
    path.write_text("open-sesame\n")
    now = time.time()
    mounted = mounted_keys({"TS_INFERENCE_TOKEN_FILE": str(path)})
    tokens = Tokens(tmp_path / "key_file.json", clock=lambda: now, mounted=mounted)
    tokens.open()
    tokens.check("inference", "Bearer open-sesame")
    (tmp_path / "other").write_text("rotated\n")
    os.replace(tmp_path / "other", path)
    now += 1
    tokens.check("inference", "Bearer rotated")
    tokens.close()


def test_two_variables_need_no_permission(tmp_path: Path) -> None:
    """TorchServe ignored these too unless the file said enable_envvars_config=true; a container
    often has no file."""
    properties(tmp_path)
    environ = {"TS_DISABLE_TOKEN_AUTHORIZATION": "true", "TS_ENABLE_MODEL_API": "true"}
    config = load_config({}, environ, tmp_path)
    assert config.disable_token_authorization
    assert config.enable_model_api
    assert config.warnings == ()


# Settings


async def test_load_models_may_have_spaces(site: Site) -> None:
    """TorchServe looked for the file " b.mar", or registered a model with the name " b"."""
    for name in ("a", "b"):
        site.model(name)
    await site.management.startup.load("a-1.0 , other = b-1.0")
    assert [model.name for model in site.catalog.defaults()] == ["a", "other"]


@pytest.mark.parametrize(
    ("yaml", "called", "response", "startup"),
    [
        ("batchSize: 2\n", {}, 70, 60),
        ("responseTimeout: 5\n", {}, 5, 60),
        ("responseTimeout: 5\n", {"response_timeout": 6, "startup_timeout": 7}, 5, 7),
    ],
)
async def test_each_timeout_falls_through_by_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    yaml: str,
    called: dict[str, int],
    response: int,
    startup: int,
) -> None:
    """Any yaml pinned both of TorchServe's timeouts, to 120 s where it did not name them; without
    one the JSON of config.properties beat the call."""
    config: dict[str, Any] = {
        "default_response_timeout": 70,
        "default_startup_timeout": 80,
        "models": {"m": {"1.0": {"startupTimeout": 60}}},
    }
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path, **config) as site:
        await site.register(site.model(yaml=yaml), 0, **called)
        settings = site.catalog.find("m").settings
        assert (settings.response_timeout, settings.startup_timeout) == (response, startup)


async def test_min_workers_alone_counts(site: Site) -> None:
    """TorchServe ignored minWorkers in a yaml that did not name maxWorkers too."""
    await site.register(site.model(yaml="minWorkers: 2\n"), 1)
    model = site.catalog.find("m")
    assert (len(model.slots), model.min_workers, model.max_workers) == (2, 2, 2)


@pytest.mark.parametrize("yaml", ["minWorkers: [\n", "just a text\n"])
async def test_a_bad_yaml_is_refused(site: Site, yaml: str) -> None:
    """TorchServe logged it and served the model with defaults."""
    with pytest.raises(InvalidModel, match=r"Failed to parse model-config\.yaml: line ") as caught:
        await site.register(site.model(yaml=yaml))
    assert caught.value.status == 400
    assert site.unpacked == 0


def test_gpus_are_given_out_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's first worker went to the second GPU."""
    gpus = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(3)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: gpus)
    turns = Devices(None, {}).assigner(None, None)
    assert [turns() for _ in range(4)] == [0, 1, 2, 0]


PAIR = "parallelType: tp\nparallelLevel: 2\n"


async def test_a_level_needs_no_torchrun(site: Site) -> None:
    """TorchServe's workers failed for want of the section."""
    await site.register(site.model(yaml=PAIR))
    assert site.worker.spec.ranks == Ranks(2, 29500, True)


async def test_workers_without_gpus_are_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe said that it had scaled to what was asked."""
    four_gpus(monkeypatch)
    await site.register(site.model(yaml=PAIR), 1)
    answer = await site.management.scale("m", None, 3, 3, True)
    assert answer.message == "Workers scaled to 2 for model: m"
    assert "Model m version 1.0 gets 2 worker(s) at most, not 3" in caplog.text


async def test_a_new_worker_gets_gpus_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe's next worker got those behind the last one's, round about."""
    four_gpus(monkeypatch)
    await site.register(site.model(yaml=PAIR), 2)
    for workers in (1, 2):
        await site.management.scale("m", None, workers, workers, True)
    gpus = [worker.spec.env["CUDA_VISIBLE_DEVICES"] for worker in site.backend.alive]
    assert sorted(gpus) == ["0,1", "2,3"]


async def test_each_rank_sees_its_gpu_id(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's second worker had the number 2, and two GPUs: 0 and 1."""
    four_gpus(monkeypatch)
    await site.register(site.model(yaml=PAIR), 2)
    for spec in site.backend.specs:
        assert spec.ranks is not None
        assert [one.device for one in rank_specs(spec, spec.ranks, 29500)] == [0, 1]


def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(4)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: gpus)


async def test_ranks_in_step_mix_no_batches() -> None:
    """In TorchServe rank 1 stayed in the operation that rank 0 had given up."""
    rig = GroupRig()
    rig.predict(1)
    rig.ranks[0].finish()
    rig.predict(2)
    assert rig.sent() == [[1], [1]]
    rig.ranks[1].finish()
    assert rig.sent() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("system", "kind", "device"), [("darwin arm64", "mps", 0), ("linux x86_64", "cpu", None)]
)
async def test_a_yaml_may_ask_for_mps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    system: str,
    kind: str,
    device: int | None,
) -> None:
    """TorchServe took it for a mistake. A handler chooses mps where its worker has a gpu_id."""
    monkeypatch.setattr("ts_frontend.core.devices.platform_name", lambda: system)
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="deviceType: MPS\n"))
        (body,) = await site.management.describe("m", None)
        assert (body["deviceType"], site.worker.device) == (kind, device)
    assert ("deviceType mps needs a Mac" in caplog.text) == (kind == "cpu")


async def test_debug_mode_starts_one_worker_without_limits(tmp_path: Path) -> None:
    """TorchServe expected a worker that somebody had started by hand."""
    async with Site(tmp_path, debug=True) as site:
        await site.register(site.model(yaml="minWorkers: 3\nresponseTimeout: 5\n"))
        (body,) = await site.management.describe("m", None)
        assert len(body["workers"]) == body["minWorkers"] == 1
        assert body["responseTimeout"] == body["startupTimeout"] == 2**31 - 1


def test_a_start_that_fails_is_told(shell: Shell) -> None:
    """TorchServe's launcher left with 0 before the server had read its configuration."""
    assert shell.start(mode="die") == (1, "the port is taken\n")
    assert shell.start() == (0, "Model server started.\n")


async def test_an_s3_url_is_downloaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe took "s3://bucket/m.mar" for a file of the store. tests/frontend/test_core_bucket
    has the rest."""

    class Found(io.BytesIO):
        def __init__(self, url: str, read_timeout: float) -> None:
            assert url == "s3://bucket/m.mar"
            super().__init__(mar(site.folder.parent, "m").read_bytes())

    monkeypatch.setattr("ts_frontend.core.download.open_object", Found)
    assert (await site.register("s3://bucket/m.mar")).status == 200
    assert (site.folder / "m.mar").is_file()


def test_unknown_and_idle_keys_are_named(tmp_path: Path) -> None:
    """TorchServe ignored a misspelt key without a word. What only a JVM has a use for is named as
    well."""
    properties(tmp_path, "job_queue_sise=3", "number_of_netty_threads=4")
    unknown, idle = load_config({}, {}, tmp_path).warnings
    assert "unknown key job_queue_sise is ignored, did you mean job_queue_size?" in unknown
    assert "number_of_netty_threads: accepted, no effect" in idle


def test_java_plugins_are_named_at_the_start(tmp_path: Path) -> None:
    """TorchServe loaded the archives of this folder; a server without a JVM must say so."""
    (tmp_path / "plugins").mkdir()
    jar = tmp_path / "plugins" / "endpoint-plugins.jar"
    jar.touch()
    properties(tmp_path, "plugins_path=plugins")
    warnings = load_config({}, {}, tmp_path).warnings
    assert any(f"{jar} is not loaded" in one for one in warnings)
    assert any("torchserve_py.endpoints" in one for one in warnings)


def test_addresses_may_be_ipv6(tmp_path: Path) -> None:
    """TorchServe took no host with a colon in it."""
    properties(tmp_path, "inference_address=http://[::1]:8080")
    assert load_config({}, {}, tmp_path).inference_address == Address("http", "::1", 8080)


# Snapshots


class Left:
    """Snapshots of a server's core, in files."""

    def __init__(self, place: Path, config: Config | None = None, *, at: float = NOON) -> None:
        self.folder = place / "logs" / "config"
        self.now = at
        self._config = config or Config()

    async def write(self, site: Site | None = None) -> None:
        """What a run leaves that begins and ends at once."""
        there = list if site is None else site.management.startup.saved
        failed = list if site is None else site.management.startup.failed_entries
        snapshots = Snapshots(
            self._config, Folder(self.folder), there, failed=failed, clock=lambda: self.now
        )
        snapshots.begin()
        await snapshots.close()

    @property
    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    @property
    def models(self) -> ModelSnapshot:
        """What the next start would restore."""
        found = Folder(self.folder).last()
        assert found is not None
        entries = {entry.key: entry.value for entry in parse(found[1])}
        models = model_snapshot(entries["model_snapshot"])
        assert models is not None
        return models


async def test_a_model_that_is_not_restored_keeps_no_other_out_and_is_not_lost(
    site: Site, tmp_path: Path
) -> None:
    """TorchServe restored nothing after the first model that failed."""
    bad, good = (
        SavedVersion(name, "1.0", True, f"{name}-1.0", 0, 0, 1, 100) for name in ("bad", "good")
    )
    site.model("good")
    await site.management.startup.restore(ModelSnapshot("x", (bad, good)))
    assert [one.name for one in site.catalog] == ["good"]
    assert "Model bad version 1.0 could not be" in site.management.startup.missing()[0]
    left = Left(tmp_path)
    await left.write(site)
    assert set(left.models.versions) == {bad, good}


async def test_no_other_version_stands_in_for_a_default_that_is_not_restored(site: Site) -> None:
    """TorchServe gave up all of the snapshot; version 1.0 must not answer for the broken 2.0."""
    old, new = (
        SavedVersion("m", number, number == "2.0", f"m-{number}", 0, 0, 1, 100)
        for number in ("1.0", "2.0")
    )
    url = site.model("m", "1.0")
    await site.management.startup.restore(ModelSnapshot("x", (old, new)))
    assert site.catalog.find("m", "1.0").url == Path(url).name
    with pytest.raises(VersionNotFound, match=r"^Model version: 2.0 does not exist for model: m$"):
        await site.inference.predict("m", None, make_request())
    await site.register(site.model("m", "2.0"), 0)
    assert site.catalog.find("m").version == "2.0"


async def test_a_model_that_failed_at_the_start_is_tried_again_at_the_next(
    site: Site, tmp_path: Path
) -> None:
    """TorchServe's second start went by a snapshot that did not have it."""
    await site.management.startup.load("m=m.mar, gone.mar")
    left = Left(tmp_path)
    await left.write(site)
    assert left.models.failed == ("m=m.mar", "gone.mar")
    second = {"load_models": "m=m.mar", "model_snapshot": left.models}
    async with Site(tmp_path / "again", **second) as again:
        await again.management.startup.run()
        (reason,) = again.management.startup.missing()
    assert reason.startswith("Model m could not be registered; ")


async def test_snapshots_are_private_whole_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe wrote into the file that the next start might read, and removed none."""
    left = Left(tmp_path)
    for _ in range(52):
        await left.write()
    kinds = [name.partition("-")[2] for name in left.names]
    assert {kind: kinds.count(kind) for kind in kinds} == {"startup.cfg": 50, "shutdown.cfg": 50}
    modes = {stat.S_IMODE((left.folder / name).stat().st_mode) for name in left.names}
    assert modes == {0o600}
    before = left.names

    def killed(*_: object) -> None:
        raise OSError("here the server ends")

    monkeypatch.setattr(os, "fsync", killed)
    await left.write()
    assert left.names == before


async def test_snapshots_hold_no_values_of_variables(tmp_path: Path) -> None:
    """TorchServe wrote down all that was in effect."""
    properties(tmp_path, "enable_envvars_config=true", "keystore_pass=$$SECRET$$")
    environ = {"SECRET": "hunter2", "TS_JOB_QUEUE_SIZE": "9"}
    config = load_config({}, environ, tmp_path)
    left = Left(tmp_path, config)
    await left.write()
    text = (left.folder / left.names[-1]).read_text()
    assert "keystore_pass=$$SECRET$$\n" in text
    assert "hunter2" not in text
    assert "job_queue_size" not in text


async def test_a_snapshot_is_always_named_as_the_last(tmp_path: Path) -> None:
    """TorchServe wrote none under a name that was taken, and went by the time of the clock."""
    left = Left(tmp_path)
    await left.write()
    left.now -= 3600
    await left.write()
    assert [name[:17] for name in left.names] == [f"20240530120000{ms:03}" for ms in range(4)]
    assert left.names[-1].endswith("-shutdown.cfg")


async def test_a_folder_outside_the_store_is_restored(site: Site, tmp_path: Path) -> None:
    """TorchServe looked for the last part of its path in the model store."""
    folder = model_folder(tmp_path / "elsewhere")
    await site.register(str(folder), 0)
    left = Left(tmp_path)
    await left.write(site)
    assert [one.mar_name for one in left.models.versions] == [str(folder)]
    assert left.models.absent(site.folder, tmp_path) == []


def test_other_files_beside_the_snapshots_do_not_matter(tmp_path: Path) -> None:
    """TorchServe took each name up to the first dash for a number, and ended where it was none."""
    properties(tmp_path)
    folder = tmp_path / "logs" / "config"
    folder.mkdir(parents=True)
    (folder / "my-backup.cfg").write_text("job_queue_size=1")
    assert load_config({}, {}, tmp_path).job_queue_size == 100


# Management


async def test_a_failing_load_tells_its_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe said that workers did not start and nothing more; describe said UNLOADING."""
    site.backend.load = refuse
    url = site.model()
    with pytest.raises(Internal) as caught:
        await site.register(url)
    assert caught.value.message == (
        "Failed to start workers for model m version: 1.0\n"
        "ValueError: no weights\nTraceback\n  line 3\nValueError: no weights"
    )
    assert "  line 3\nValueError: no weights" in caplog.text
    await site.register(url, synchronous=False)
    await until(lambda: site.catalog.find("m").slots[0].error is not None)
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["error"] == "ValueError: no weights"


async def test_a_model_that_fails_at_the_start_stays_visible(site: Site) -> None:
    """TorchServe logged a line and forgot the model: describe was a 404, and nothing that asks for
    health could tell."""
    (site.folder / "junk.mar").write_text("junk")
    await site.management.startup.load("junk.mar")
    (body,) = await site.management.describe("junk", None)
    assert body["error"].startswith("Failed to save model: junk.mar")
    assert site.inference.healthy()  # /ping says what it said there
    (reason,) = site.management.startup.missing()
    assert reason.startswith("Model junk could not be registered; ")


async def test_start_times_are_utc(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe wrote local time and put the Z of UTC behind it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        await site.register(site.model())
        site.catalog.find("m").slots[0].started_at = 1_700_000_000.25
        (body,) = await site.management.describe("m", None)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert body["workers"][0]["startTime"] == "2023-11-14T22:13:20.250Z"


async def test_memory_usage_is_of_now(site: Site) -> None:
    """TorchServe described what its last round of system metrics had found: 0 for up to a minute,
    and for ever where they were switched off."""
    await site.register(site.model())
    site.catalog.find("m").slots[0].reports.started(os.getpid())
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["memoryUsage"] > 1_000_000


async def test_a_call_that_is_overtaken_has_not_failed(site: Site) -> None:
    """TorchServe reported workers that were stopped on purpose as failed to start."""
    site.backend.load = never
    await site.register(site.model(), 0)
    call = asyncio.create_task(site.management.scale("m", None, 2, 2, True))
    await site.backend.until(lambda: site.backend.starting == 2)
    await site.management.scale("m", None, 0, 0, True)
    assert (await call).status == 206


async def test_a_negative_number_of_workers_is_a_400(site: Site) -> None:
    """TorchServe's own IndexOutOfBoundsException came through, as 500."""
    await site.register(site.model(), 0)
    with pytest.raises(BadRequest, match=r"^min_worker cannot be negative\.$"):
        await site.management.scale("m", None, -1, -1, True)


async def test_a_json_register_without_a_delay_keeps_the_default() -> None:
    """TorchServe's JSON form took it for -10000 ms, and batched two at most."""
    async with (
        edge(enable_model_api=True) as e,
        aiohttp.ClientSession() as session,
        session.post(e.url("/models", 1), json={"url": "a.mar"}) as answer,
    ):
        assert answer.status == 200
    assert e.management.calls[0][1].max_batch_delay is None


@pytest.mark.parametrize("name", ["response_timeout", "startup_timeout"])
@pytest.mark.parametrize("seconds", [0, -5])
async def test_a_timeout_below_one_second_is_a_400(site: Site, name: str, seconds: int) -> None:
    """TorchServe took it as it was: each load failed at once, or each prediction."""
    with pytest.raises(BadRequest, match=rf"{name} must be 1 second or more, not {seconds};"):
        await site.register(site.model(), **{name: seconds})
    assert site.unpacked == 0


async def test_a_batch_below_one_and_a_delay_below_zero_are_taken_as_they_run(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe described a batch size of 0 and a delay of -5 ms, and ran with 1 and none."""
    await site.register(site.model(), 0, batch_size=0, max_batch_delay=-5)
    (body,) = await site.management.describe("m", None)
    assert (body["batchSize"], body["maxBatchDelay"]) == (1, 0)
    assert "Parameter batch_size=0 is taken as 1." in caplog.text
    assert "Parameter max_batch_delay=-5 is taken as 0." in caplog.text


async def test_more_workers_than_a_thousand_are_a_400(site: Site) -> None:
    """TorchServe set out to start however many were asked for."""
    with pytest.raises(BadRequest, match=r"^1001 workers are too many: .* may have 1000 at once"):
        await site.register(site.model(), 1001)
    with pytest.raises(BadRequest, match=r"^2147483647 workers are too many"):
        await site.register(site.model("n", yaml="minWorkers: 2147483647"))
    assert site.unpacked == 0
    await site.register(site.model("o"))
    with pytest.raises(BadRequest, match=r"^1001 workers are too many"):
        await site.management.scale("o", None, 1001, 1001, False)
    assert len(site.catalog.find("o").slots) == 1


async def test_a_json_register_is_64_kib_at_most() -> None:
    """TorchServe read up to max_request_size of it."""
    async with (
        edge(enable_model_api=True) as e,
        aiohttp.ClientSession() as session,
        session.post(
            e.url("/models", 1),
            data=b"{'url': '" + bytes(64 << 10) + b"'}",
            headers={"Content-Type": "application/json"},
        ) as answer,
    ):
        assert answer.status == 413
        assert "limit for parameters is 65536" in (await answer.json())["message"]


async def test_a_version_without_a_url_of_its_own_is_refused(site: Site) -> None:
    """TorchServe registered it, and nothing could name it, nor `all` in describe."""
    for number, version in enumerate(("1/0", "1\n0", "..", "all", "ready")):
        url = site.model("m", f"{number}", modelVersion=version)
        with pytest.raises(InvalidModel, match=r"^Model version "):
            await site.register(url)
    with pytest.raises(InvalidModel, match=r"^Model name '\.\.' "):
        await site.register(site.model(), model_name="..")
    assert site.management.list_models(100, 0) == {"models": []}


async def test_an_empty_json_register_is_a_400() -> None:
    """TorchServe answered 500 NullPointerException."""
    kind = {"Content-Type": "application/json"}
    async with (
        edge(enable_model_api=True) as e,
        aiohttp.ClientSession() as session,
        session.post(e.url("/models", 1), data=b"", headers=kind) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["message"] == "Parameter url is required."


async def test_a_model_whose_packages_fail_is_not_registered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe answered 400 and kept the model: the next try was told 409."""

    async def fail(*_: object) -> str | None:
        raise ModelSetupFailed("Custom pip package installation failed for model m")

    url = site.model()
    with monkeypatch.context() as patch:
        patch.setattr("ts_frontend.core.registration.prepare", fail)
        with pytest.raises(ModelSetupFailed):
            await site.register(url)
    assert (await site.register(url)).status == 200


def a_model_with_packages(site: Site, name: str, requirements: str, *wheels: str) -> str:
    """A model whose wheels, such as ``thing==1``, are all that pip can find."""
    url = site.model(name, requirementsFile="requirements.txt")
    (Path(url) / "requirements.txt").write_text(requirements)
    for wheel in wheels:
        make_wheel(Path(url) / "wheels", *wheel.split("=="))
    return url


@pytest.fixture
async def installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site that installs packages, and removes what nobody uses."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    settings = {"install_py_dep_per_model": True, "py_env_cache_max": 0}
    async with Site(tmp_path, py_env_cache=tmp_path / "envs", **settings) as site:
        yield site


async def test_packages_are_installed_once(installing: Site, tmp_path: Path) -> None:
    """TorchServe ran pip for each model, at each registration and each start."""
    for name in "ab":
        url = a_model_with_packages(installing, name, "thing", "thing==1")
        await installing.register(url)
    first, second = (spec.import_paths for spec in installing.backend.specs)
    assert first[-1] == second[-1]
    (environment,) = (tmp_path / "envs").iterdir()
    assert first[-1].startswith(str(environment))
    for name, left in (("a", [environment]), ("b", [])):
        await installing.management.unregister(name, None)
        assert list((tmp_path / "envs").iterdir()) == left


async def test_packages_leave_the_servers_torch_and_numpy(installing: Site) -> None:
    """TorchServe's ``pip install -t`` put others beside them."""
    url = a_model_with_packages(installing, "m", "torch==1.0", "torch==1.0")
    with pytest.raises(ModelSetupFailed, match=r"torch==1\.0, .* beside torch \d.*useVenv"):
        await installing.register(url)
    url = a_model_with_packages(installing, "n", "numpy", "numpy==99")
    await installing.register(url)
    packages = installing.worker.spec.import_paths[-1]
    assert not [name for name in os.listdir(packages) if name.startswith("numpy")]


async def test_a_second_ts_is_not_installed(
    installing: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe installed itself into the model."""
    lines = "torchserve\ntorch-model-archiver\ntorch-workflow-archiver\n"
    await installing.register(a_model_with_packages(installing, "m", lines))
    assert caplog.text.count("is skipped: the server has a package ts itself") == 3


async def test_a_models_files_do_not_break_pip(installing: Site) -> None:
    """TorchServe ran pip in the model's folder."""
    url = a_model_with_packages(installing, "m", "./wheels/thing-1-py3-none-any.whl", "thing==1")
    (Path(url) / "logging.py").write_text("raise RuntimeError")
    await installing.register(url)
    assert (Path(installing.worker.spec.import_paths[-1]) / "thing.py").exists()


async def test_a_yaml_may_name_an_interpreter(site: Site) -> None:
    """TorchServe knew the server's own and ``python3``."""
    await site.register(site.model(yaml=f"pythonExecutable: {sys.executable}\n"))
    assert site.worker.spec.python == sys.executable
    with pytest.raises(ModelSetupFailed, match=r"^pythonExecutable no-such can't be used"):
        await site.register(site.model("n", yaml="pythonExecutable: no-such\n"))


def test_an_unregister_that_times_out_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a 408 TorchServe had the model back, without workers and, for a URL, without its
    archive in the store."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)

    async def main() -> None:
        async with Site(tmp_path, unregister_model_timeout=10) as site:
            url = site.model()
            await site.register(url)
            stuck, free = site.worker, asyncio.Event()

            async def stop(grace: float) -> None:
                await free.wait()
                stuck.die(None, 9)

            monkeypatch.setattr(stuck, "stop", stop)
            with pytest.raises(RequestTimeout, match=r"^Timed out while cleaning resources: m$"):
                await site.management.unregister("m", None)
            assert asyncio.get_running_loop().time() == 15
            with pytest.raises(ModelNotFound):
                await site.management.unregister("m", None)
            assert (await site.register(url)).status == 200  # no 409
            assert len(site.backend.alive) == 2
            free.set()
            await until(lambda: len(site.backend.alive) == 1)

    run_virtual(main)
    assert "W-9000-m_1.0 (process 4000000) has not ended within 15 s" in caplog.text


async def test_a_registration_ends_with_the_server(site: Site) -> None:
    """TorchServe left its client without an answer, and the model in the catalog."""
    site.backend.load = never
    changes = site.management.changes
    client = asyncio.create_task(changes.run(site.register(site.model()), NOT_REGISTERED))
    await until(lambda: bool(list(site.catalog)))
    changes.stop()
    with pytest.raises(ServiceUnavailable, match=r"^The server is stopping: .* not registered"):
        await client
    assert list(site.catalog) == []


async def test_a_describe_call_keeps_its_own_status_and_headers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe answered a describe call with whatever status and headers the handler had set."""

    def styled(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
        headers = pack_headers([("content-type", "text/plain")])
        rows = tuple(Response(one.id, 299, "Odd", headers, b'{"a": 1}') for one in batch.requests)
        answer = Reply(batch.batch_id, 200, "", rows)
        asyncio.get_running_loop().call_soon(reply, answer)

    site.backend.behaviour = styled
    await site.register(site.model())
    async with edge() as e, aiohttp.ClientSession() as session:
        monkeypatch.setattr(e.management, "describe", site.management.describe)
        async with session.get(e.url("/models/m?customized=true", 1)) as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            assert (await answer.json())[0]["customizedMetadata"] == {"a": 1}


# Archives


@pytest.mark.parametrize("dots", ["%2e%2e", "%2E.", ".%2e"])
async def test_an_escaped_parent_folder_is_refused(tmp_path: Path, dots: str) -> None:
    """TorchServe looked for ".." as such; this opened a file beside the folder that is allowed."""
    (tmp_path / "open").mkdir()
    (tmp_path / "secret.mar").write_bytes(b"")
    async with Site(tmp_path, allowed_urls=(f"file://{tmp_path}/open/.*",)) as site:
        url = f"file://{tmp_path}/open/{dots}/secret.mar"
        with pytest.raises(ModelNotFound) as caught:
            await site.register(url)
    assert caught.value.message == f"Relative path is not allowed in url: {url}"


async def test_one_model_may_read_pickles(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """torch had a variable for it, which the server handed to all models."""
    free = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    await site.register(site.model("old"), weights_only=False)
    assert site.worker.spec.env[free] == "1"
    await site.register(site.model("new"))
    assert free not in site.worker.spec.env
    (told,) = [line for line in caplog.messages if "may load pickles" in line]
    assert told.startswith("Model old version 1.0")


async def test_redirects_must_be_allowed_too(tmp_path: Path) -> None:
    """TorchServe looked at the first URL only."""
    with web_server() as web:
        web.moved = {"/open/m.mar": web.url("/secret/m.mar")}
        async with Site(tmp_path, allowed_urls=(web.url("/open/.*"),)) as site:
            with pytest.raises(ModelNotFound) as caught:
                await site.register(web.url("/open/m.mar"))
        text = f"Given URL {web.url('/secret/m.mar')} does not match any allowed URL(s)"
    assert caught.value.message == text


async def test_a_download_gets_on_or_fails(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe set no time limits. tests/frontend/test_core_download.py has the rest."""
    os.mkfifo(tmp_path / "pipe.mar")
    with pytest.raises(DownloadFailed, match="it is not a regular file"):
        await site.register((tmp_path / "pipe.mar").as_uri())
    monkeypatch.setattr("ts_frontend.core.download.STALL_SECONDS", 0.1)
    async with dripping() as server:
        with pytest.raises(DownloadFailed, match=r"it is too slow: .* in 0\.1 seconds"):
            await site.register(f"http://127.0.0.1:{server.port}/m.mar")
    assert list(site.folder.iterdir()) == []


async def test_a_downloaded_archive_stays_while_others_need_it(site: Site, tmp_path: Path) -> None:
    """TorchServe deleted it with the model that had been registered by URL."""
    source = mar(tmp_path / "elsewhere")
    await site.register(source.as_uri())
    await site.register("m.mar", model_name="n")
    await site.management.unregister("m", None)
    assert (site.folder / "m.mar").is_file()
    await site.management.unregister("n", None)
    assert not (site.folder / "m.mar").exists()


async def test_a_refused_archive_tells_its_cause(site: Site) -> None:
    """TorchServe's texts ended behind what they were about."""
    url = site.model()
    (Path(url) / "MAR-INF" / "MANIFEST.json").write_text("{")
    with pytest.raises(InvalidModel, match=r"^Failed to parse signature\.json\. .*JSON"):
        await site.register(url)
    absent = f"file://{site.folder}/absent.mar"
    with pytest.raises(DownloadFailed) as caught:
        await site.register(absent)
    text, _, cause = caught.value.message.partition("\n")
    assert text == f"Failed to download archive from: {absent}"
    assert "No such file" in cause


async def test_a_file_that_is_no_archive_is_refused(site: Site) -> None:
    """TorchServe unpacked nothing from it and registered a model without files."""
    (site.folder / "page.mar").write_text("<!DOCTYPE html><html>Please log in</html>")
    with pytest.raises(Internal, match=r"^Failed to save model: page\.mar\n(.*)web page"):
        await site.register("page.mar")


# Handlers


def test_an_error_in_a_micro_batch_reaches_the_caller() -> None:
    """TorchServe's thread ended with it, and nobody answered."""

    class Handler:
        def preprocess(self, data: list[int]) -> list[float]:
            return [1 / value for value in data]

        inference = postprocess = staticmethod(list)

    batching = MicroBatching(Handler())
    with pytest.raises(ZeroDivisionError):
        batching.handle([1, 0, 2])
    assert batching.handle([2, 4]) == [0.5, 0.25]
    batching.shutdown()


async def test_a_language_models_error_has_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe answered 200, with the error in the body."""
    error = SimpleNamespace(code=404, model_dump=lambda: {"message": "no such model"})

    class Request(SimpleNamespace):
        @classmethod
        def model_validate(cls, body: dict[str, Any]) -> Request:
            return cls(**body)

    async def create(request: Request, raw_request: None) -> SimpleNamespace:
        return error

    pretend(
        monkeypatch,
        "vllm.entrypoints.openai.protocol",
        CompletionRequest=Request,
        ErrorResponse=SimpleNamespace,
    )
    handler = VLLMHandler()
    handler.completion_service = SimpleNamespace(create_completion=create)
    context = Context("m", "/m", None, 1, None, "0")
    context.start_batch([{"url_path": "v1/completions"}], {0: "r"})
    answer = await handler.handle([{"body": {"model": "other"}}], context)
    assert answer == [{"message": "no such model"}]
    assert context.get_response_status(0)[0] == 404


def test_timeit_works(capsys: pytest.CaptureFixture[str]) -> None:
    """TorchServe's asks for `time.clock`."""
    assert timeit(len)("abc") == 3
    assert capsys.readouterr().out.startswith("len: ")


def test_a_workflow_without_a_handler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TorchServe's tool ended in an AttributeError, and left copies behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "out").mkdir()
    files = [tmp_path / name for name in ("spec.yaml", "f.py")]
    for file in files:
        file.write_text("")
    words = ["--workflow-name", "w", "--spec-file", str(files[0])]
    with pytest.raises(SystemExit) as caught:
        ArgParser.workflow_archiver_args_parser().parse_args(words)
    assert caught.value.code == 2
    assert "--handler" in capsys.readouterr().err
    pack_workflow("w", *files, export_path=tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["f.py", "out", "spec.yaml"]
