"""TorchServe's oddities that clients rely on: one test for each row of docs/compatibility.md."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.core_rig import Rig, Site, model_folder, never, states, until
from tests.fakes import LoadFailed, hold, make_request, run_virtual
from tests.frontend.http_fakes import FakeLogs, edge, post, talk
from ts.service import Outcome, Service
from ts_frontend.config import Address, ConfigError, load_config
from ts_frontend.core.batching import Delay, JobQueue
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer, Job
from ts_frontend.core.slot import BACK_OFF, State
from ts_frontend.errors import (
    Internal,
    InvalidVersion,
    ModelNotFound,
    ServiceUnavailable,
    VersionNotFound,
)
from ts_frontend.http.tokens import Tokens
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import default_path, load_spec
from ts_worker.backend.base import Ranks, WorkerSpec
from ts_worker.messages import Request
from workflow_archiver.arg_parser import ArgParser
from workflow_archiver.workflow_packaging import package_workflow

NO_WORKER = (
    " has no worker to serve inference request. Please use scale workers API to add workers. If "
    "this is a sequence inference, please check if it is closed, or expired; or exceeds "
    "maxSequenceJobQueueSize"
)


async def get(url: str, method: str = "GET", **options: object) -> tuple[int, str]:
    """Status and text of a request without a token."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **options) as answer,  # type: ignore[arg-type]
    ):
        return answer.status, await answer.text()


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "ValueError: no weights", "Traceback\nValueError: no weights")


def run(handle: Callable[[Any, Any], Any]) -> Outcome:
    """What a worker makes of one row, with this handler."""
    service = Service("m", "/nowhere", None, handle, None, 1)
    return service.infer([{}], [{"body": b""}], {0: "id"})


# Tokens


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


# Inference


async def test_texts_have_unbalanced_quotes() -> None:
    """With a version in the URL TorchServe's 503 opened no quote before the one it closed."""
    async with Rig() as rig:
        rig.add()
        for version, subject in ((None, 'Model "m"'), ("1.0", 'Model "m" Version 1.0"')):
            with pytest.raises(ServiceUnavailable) as caught:
                await rig.inference.predict("m", version, make_request())
            assert caught.value.message == subject + NO_WORKER


async def test_no_worker_and_a_full_queue_have_one_text() -> None:
    """TorchServe told a client of a full queue that the model has no worker, with 503 too."""
    async with Rig() as rig:
        rig.backend.load = never
        model = rig.add(job_queue_size=1)
        rig.supervisor.scale(model, 1, 1)  # a worker that starts lets requests queue
        waiting = asyncio.create_task(rig.inference.predict("m", None, make_request()))
        await until(lambda: len(model.queue) == 1)
        with pytest.raises(ServiceUnavailable) as caught:
            await rig.inference.predict("m", None, make_request())
        assert caught.value.message == 'Model "m"' + NO_WORKER
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_matadata_is_spelled_so() -> None:
    """TorchServe wrote "matadata" where a describe job failed with its worker."""
    async with Rig(behaviour=hold) as rig:
        model = await rig.serve()
        asking = asyncio.create_task(describe_itself(model, make_request()))
        await rig.worker.received()
        rig.worker.die(1, None)
        with pytest.raises(Internal, match=r"^Failed to get customized model matadata\.$"):
            await asking


async def test_a_workers_death_is_a_500_and_the_batch_is_not_retried() -> None:
    """TorchServe answered the batch of a dying worker "Worker died." and never ran it again; a
    worker that was killed for memory gave 507."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve(workers=2)
        for signal, status in ((11, 500), (9, 507)):
            asking = asyncio.create_task(rig.inference.predict("m", None, make_request()))
            await until(lambda: any(worker.current for worker in rig.backend.alive))
            next(worker for worker in rig.backend.alive if worker.current).die(None, signal)
            with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                await asking
            assert caught.value.status == status
        assert sum(len(worker.batches) for worker in rig.backend.workers) == 2


async def test_a_handlers_413_becomes_507() -> None:
    """TorchServe turned a worker's 413 into 507."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve()
        asking = asyncio.create_task(rig.inference.predict("m", None, make_request()))
        await rig.worker.received()
        rig.worker.finish(413, "Out of resources")
        with pytest.raises(Internal, match=r"^Out of resources$") as caught:
            await asking
        assert caught.value.status == 507


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("x"), 503, "Prediction failed"),
        (RuntimeError("CUDA error: 2"), 507, "Out of resources"),
        (MemoryError(), 507, "Out of resources"),
    ],
)
def test_a_handlers_exception_is_a_503(error: Exception, code: int, message: str) -> None:
    """TorchServe answered the batch of a handler that raised with 503 and no cause; with 507 where
    the text of the exception had "CUDA" in it."""

    def handle(data: object, context: object) -> list[object]:
        raise error

    outcome = run(handle)
    assert (outcome.code, outcome.message) == (code, message)


def test_json_results_are_indented() -> None:
    """TorchServe wrote what is no bytes or text as JSON with an indent of two, without a line feed
    at the end."""
    outcome = run(lambda data, context: [{"a": [1]}])
    assert bytes(outcome.predictions[0].body) == b'{\n  "a": [\n    1\n  ]\n}'


async def test_a_form_field_has_no_type() -> None:
    """In TorchServe a part without a filename reached the handler as bytes, whatever content type
    it declared."""
    head = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\nContent-Type: %b\r\n\r\n{}\r\n'
    parts = (head % (b"a", b"", b"application/json"), head % (b"f", b'; filename="f"', b"text/x"))
    body = b"".join(parts) + b"--b--\r\n"
    async with edge() as e:
        await talk(
            e.port,
            post("/predictions/m", body, "Content-Type: multipart/form-data; boundary=b"),
        )
        assert e.inference.row() == {"a": ("", b"{}"), "f": ("text/x", b"{}")}


async def test_a_response_has_no_content_type_and_no_phrase() -> None:
    """TorchServe sent neither a content-type nor a reason phrase unless the handler set them."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b'{"a": 1}'))
    assert answer.startswith(b"HTTP/1.1 200 \r\n")
    assert b"content-type" not in answer.lower()


async def test_cache_control_has_a_semicolon() -> None:
    """TorchServe put ";" and not "," behind the first word of Cache-Control."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert b"\r\nCache-Control: no-cache; no-store, must-revalidate, private\r\n" in answer


async def test_an_error_closes_the_connection() -> None:
    """TorchServe closed the connection behind every status of 400 and more, a handler's own too."""

    async def teapot(request: Request) -> Answer:
        return Answer(418, "", b"", b"short and stout")

    async with edge(behaviour=teapot) as e:
        # `talk` reads until the server closes; the request itself asks to keep the line.
        answer = await talk(e.port, b"GET /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"connection: close\r\n\r\nshort and stout")


async def test_the_clients_request_id_is_not_taken_over() -> None:
    """TorchServe answered with an x-request-id of its own, whatever the client sent."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b"", "x-request-id: mine"))
        assert b"x-request-id: mine" not in answer
        assert e.inference.headers()["x-request-id"] == "mine"


async def test_a_request_needs_no_host() -> None:
    """HTTP/1.1 asks for one; HAProxy's checks, for instance, have none unless told so."""
    async with edge() as e:
        answer = await talk(e.port, b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_any_method_predicts_and_the_query_stays_outside() -> None:
    """TorchServe looked at neither the method nor the query of /predictions; on /invocations the
    query became part of the row."""
    async with edge() as e:
        for method in ("GET", "PUT", "POST", "DELETE"):
            assert (await get(e.url("/predictions/m?a=b"), method))[0] == 200
            assert set(e.inference.row()) == {"body"}
        await get(e.url("/invocations?model_name=m&a=b"))
        assert set(e.inference.row()) == {"model_name", "a", "body"}


async def test_plain_http_on_an_https_address_is_a_403() -> None:
    """TorchServe looked at the first bytes and answered plain requests without TLS."""
    async with edge(inference_address=Address("https", "127.0.0.1", 0)) as e:
        status, text = await get(e.url("/ping"))
        assert (status, json.loads(text)) == (
            403,
            {"status": "This TorchServe instance only accepts HTTPS requests"},
        )


async def test_an_escaped_slash_separates_and_a_bad_escape_is_a_403() -> None:
    """TorchServe decoded a path before it cut it, and answered a malformed escape with 403."""
    async with edge() as e:
        assert b" 200 " in await talk(e.port, post("/predictions%2Fm"))
        answer = await talk(e.port, post("/predictions/%zz"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b'"type": "IllegalArgumentException"' in answer


async def test_unhealthy_is_a_status_object() -> None:
    """TorchServe's ping said 500 with a status object, where all other errors have code, type and
    message."""
    async with edge() as e:
        e.inference.well = False
        assert await get(e.url("/ping")) == (500, '{\n  "status": "Unhealthy"\n}\n')


def test_ping_looks_at_default_versions_and_forgives_for_the_retry_window() -> None:
    """TorchServe's ping stayed green for maxRetryTimeoutInSec while workers crashed, and whatever
    became of versions that are not the default."""

    async def main() -> None:
        async with Rig() as rig:
            await rig.serve(max_retry_timeout=10)
            rig.backend.load = refuse
            rig.supervisor.scale(rig.add(version="2", max_retry_timeout=0), 1, 1)
            rig.worker.die(1, None)
            await asyncio.sleep(9.9)
            assert rig.inference.healthy()
            await asyncio.sleep(0.2)
            assert not rig.inference.healthy()

    run_virtual(main)


async def test_the_description_of_a_model_says_prediction() -> None:
    """TorchServe's OpenAPI of one model has the path /prediction/{m}, without the "s"."""
    async with edge() as e:
        text = (await get(e.url("/predictions/m"), "OPTIONS"))[1]
    assert next(iter(json.loads(text)["paths"])) == "/prediction/m"


# Batching and workers


def test_a_delay_of_zero_batches_two_at_most() -> None:
    """TorchServe looked at the clock after each job: with a delay of 0 ms it took two at most."""

    async def main() -> None:
        queue = JobQueue(Delay(0.0), capacity=100, batch_size=8)
        queue.consumers = 1
        for _ in range(5):
            assert queue.put(Job(make_request(), queue.loop.create_future()))
        assert [len(await queue.take()) for _ in range(3)] == [2, 2, 1]

    run_virtual(main)


def test_workers_are_restarted_by_the_back_off_table() -> None:
    """TorchServe waited 1, 1, 2, 3, 5 ... 1597 s; it looks at maxRetryTimeoutInSec when an attempt
    fails, so that the last one comes after the 300 s."""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add()
            rig.supervisor.scale(model, 1, 1)
            await asyncio.sleep(10_000)
            starts = [0, 1, 2, 4, 7, 12, 20, 33, 54, 88, 143, 232, 376]
            assert rig.backend.start_times == starts
            assert states(model) == [State.DEAD]  # and still listed

    run_virtual(main)
    assert (BACK_OFF[:6], BACK_OFF[-1]) == ((1, 1, 2, 3, 5, 8), 1597)


async def test_a_yaml_delay_of_zero_counts_as_unset(site: Site) -> None:
    """TorchServe took maxBatchDelay: 0 of a model-config.yaml for the default, 100 ms."""
    await site.register(site.model(yaml="maxBatchDelay: 0\n"), 0)
    assert site.catalog.find("m").settings.max_batch_delay == 100


async def test_a_pair_of_workers_in_the_yaml_beats_the_register_call(site: Site) -> None:
    """In TorchServe minWorkers and maxWorkers of a yaml won over initial_workers."""
    await site.register(site.model(yaml="minWorkers: 2\nmaxWorkers: 3\n"), 1)
    model = site.catalog.find("m")
    assert (len(model.slots), model.max_workers) == (2, 3)


# Management


async def test_a_token_is_given_where_the_page_ends_with_the_last_model(site: Site) -> None:
    """TorchServe gave a nextPageToken that leads to an empty page."""
    for name in ("a", "b"):
        await site.register(site.model(name), 0)
    page = site.management.list_models
    assert page(2, 0)["nextPageToken"] == "2"
    assert page(2, 2) == {"models": []}
    assert "nextPageToken" not in page(3, 0)


async def test_a_list_has_a_hundred_models_at_most(site: Site) -> None:
    """TorchServe's documents say 1000; it gave 100, for a limit it did not like as well. A limit
    of 0 gives nothing, and the token of the same page."""
    for number in range(101):
        site.add(f"m{number:03}")
    for limit in (1000, 101, -1):
        page = site.management.list_models(limit, 0)
        assert (len(page["models"]), page["nextPageToken"]) == (100, "100")
    assert site.management.list_models(0, 7) == {"nextPageToken": "7", "models": []}


async def test_the_default_version_changes_by_set_default_only(site: Site) -> None:
    """In TorchServe the first version stays the default. Set-default words an unknown version
    unlike all other calls."""
    for version in ("1", "2"):
        await site.register(site.model(version=version), 0)
    assert site.catalog.find("m").version == "1"
    with pytest.raises(VersionNotFound, match=r"^Model version 9 does not exist for model m$"):
        site.management.set_default("m", "9")
    with pytest.raises(VersionNotFound, match=r"^Model version: 9 does not exist for model: m$"):
        await site.management.describe("m", "9")
    site.management.set_default("m", "2")
    assert site.catalog.find("m").version == "2"


async def test_a_default_version_with_others_cannot_be_deleted(site: Site) -> None:
    """TorchServe refused it with 403; the name goes with the last version."""
    for version in ("1", "2"):
        await site.register(site.model(version=version), 0)
    for refused in (None, "1"):
        with pytest.raises(InvalidVersion, match=r"^Cannot remove default version for model m$"):
            await site.management.unregister("m", refused)
    assert (InvalidVersion.status, InvalidVersion.type) == (403, "InvalidModelVersionException")
    await site.management.unregister("m", "2")
    await site.management.unregister("m", None)
    with pytest.raises(ModelNotFound):
        site.catalog.find("m")


async def test_without_the_model_api_it_is_a_405() -> None:
    """TorchServe answered 405, not 403, where registering is switched off."""
    async with edge(enable_model_api=False) as e:
        for method, path in (("POST", "/models?url=a.mar"), ("DELETE", "/models/m")):
            status, text = await get(e.url(path, 1), method)
            assert status == 405
            assert "Requested method is not allowed" in text
    assert e.management.calls == []


async def test_register_waits_and_scale_does_not() -> None:
    """TorchServe's documents say that synchronous is false for both; for register it was true."""
    async with edge(enable_model_api=True) as e:
        await get(e.url("/models?url=a.mar", 1), "POST")
        await get(e.url("/models/m", 1), "PUT")
    (_, asked), scaled = e.management.calls
    assert asked.synchronous is True
    assert scaled == ("scale", "m", None, 1, 1, False)


async def test_a_json_register_hides_the_query() -> None:
    """With a JSON body TorchServe did not look at the query; single quotes were good enough."""
    async with edge(enable_model_api=True) as e:
        body = {"data": "{'url': 'b.mar'}", "headers": {"Content-Type": "application/json"}}
        await get(e.url("/models?url=a.mar&batch_size=3", 1), "POST", **body)
    ((_, asked),) = e.management.calls
    assert (asked.url, asked.batch_size) == ("b.mar", None)


async def test_a_number_that_is_none_counts_as_not_given() -> None:
    """TorchServe took batch_size=many in a query for no batch_size."""
    async with edge(enable_model_api=True) as e:
        await get(e.url("/models?url=a.mar&batch_size=many", 1), "POST")
    assert e.management.calls[0][1].batch_size is None


async def test_set_default_by_another_method_means_the_model() -> None:
    """TorchServe took GET or DELETE of .../set-default for the model without a version."""
    async with edge(enable_model_api=True) as e:
        await get(e.url("/models/m/2.0/set-default", 1))
        await get(e.url("/models/m/2.0/set-default", 1), "DELETE")
    assert e.management.calls == [("describe", "m", None, False), ("unregister", "m", None)]


async def test_a_url_again_is_a_500_and_an_archive_again_a_409(site: Site) -> None:
    """TorchServe found the file of a URL in its store and said 500; only (name, version) is 409."""
    (site.folder / "a.mar").write_bytes(b"")
    with pytest.raises(Internal, match=r"^Model file already exists a\.mar$") as caught:
        await site.register("http://nowhere.invalid/a.mar")
    assert caught.value.status == 500
    url = site.model()
    await site.register(url, 0)
    with pytest.raises(Exception, match=r"^Model version 1\.0 is already registered for model m$"):
        await site.register(url, 0)


async def test_a_worker_is_ready_or_unloading_never_loading(site: Site) -> None:
    """TorchServe described a worker that loads its model as UNLOADING, and KServe's ready was true
    as soon as there was one."""
    site.backend.load = never
    await site.register(site.model(), 1, synchronous=False)
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["status"] == "UNLOADING"
    assert site.management.ready("m")


async def test_a_failed_scale_names_the_version_null(site: Site) -> None:
    """TorchServe printed Java's null where the client had named no version."""
    await site.register(site.model(), 0)
    site.backend.load = refuse
    with pytest.raises(Internal, match=r"^Failed to start workers for model m version: null\n"):
        await site.management.scale("m", None, 1, 1, True)


# Metrics and settings


def test_prometheus_lines_have_a_trailing_comma() -> None:
    """TorchServe's Prometheus client wrote a comma behind the last label, and Java's numbers."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h")
    recorder.meter("m", "default").answered(2e7, 1.0)
    text = recorder.render(["ts_inference_latency_microseconds"]).decode()
    labels = 'model_name="m",model_version="default",hostname="h",'
    assert text.endswith(f"\nts_inference_latency_microseconds{{{labels}}} 2.0E7\n")


async def test_reading_metrics_counts_and_redirects_are_5xx() -> None:
    """In TorchServe a look at /metrics was a request too, and Requests5XX all that is neither 2xx
    nor 4xx."""

    async def elsewhere(request: Request) -> Answer:
        return Answer(302, "", b"", b"")

    async with edge(behaviour=elsewhere) as e:
        await talk(e.port, post("/predictions/m"))
        await get(e.url("/metrics", 2))
        text = (await get(e.url("/metrics", 2)))[1]
    assert 'Requests2XX{Level="Host",Hostname="here",} 1.0' in text
    assert 'Requests5XX{Level="Host",Hostname="here",} 1.0' in text


async def test_requests_without_a_version_are_labelled_default() -> None:
    """TorchServe's model_version label was what the client asked for, "default" for nothing."""
    async with Rig() as rig:
        await rig.serve()
        await rig.inference.predict("m", None, make_request())
        await rig.inference.predict("m", "1.0", make_request())
        assert set(rig.meter.models) == {("m", "default"), ("m", "1.0")}


def test_variables_need_the_files_permission_and_only_true_is_true(tmp_path: Path) -> None:
    """TorchServe read TS_ variables only with enable_envvars_config=true in the file, one of them
    under its Java field's name, and took "yes" for false."""
    (tmp_path / "store").mkdir()
    environ = {"TS_JOB_QUEUE_SIZE": "7", "TS_TOKEN_EXPIRATION_TIME_MIN": "5"}
    for word, size, minutes in (("true", 7, 5.0), ("yes", 100, 60.0)):
        lines = f"model_store=store\nenable_envvars_config={word}\n"
        (tmp_path / "config.properties").write_text(lines)
        config = load_config({}, environ, tmp_path)
        assert (config.job_queue_size, config.token_expiration_min) == (size, minutes)


# Snapshots


def left(folder: Path, *lines: str, mar: str = "m-1.0") -> Path:
    """What an earlier run left in logs/config: a version of m, and these settings."""
    saved = {
        "defaultVersion": True,
        "marName": mar,
        **{"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 10},
    }
    text = json.dumps({"modelCount": 1, "models": {"m": {"1.0": saved}}})
    path = folder / "logs" / "config" / "20240101000000000-shutdown.cfg"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([*lines, f"model_snapshot={text}"]))
    return path


def test_the_last_snapshot_stands_for_the_whole_file(tmp_path: Path) -> None:
    """TorchServe started from the last file in logs/config instead of ./config.properties."""
    (tmp_path / "store" / "m-1.0").mkdir(parents=True)
    (tmp_path / "config.properties").write_text("model_store=no\nbatch_size=3\n")
    left(tmp_path, "model_store=no", "job_queue_size=7")
    config = load_config({"model_store": "store"}, {}, tmp_path)
    assert (config.job_queue_size, config.batch_size) == (7, None)
    assert config.model_store == tmp_path / "store"
    assert "config.properties is not read" in config.warnings[0]


def test_a_snapshot_without_its_archive_stops_the_start(tmp_path: Path) -> None:
    """TorchServe ended with an InvalidSnapshotException."""
    (tmp_path / "store").mkdir()
    path = left(tmp_path, mar="m.mar")
    with pytest.raises(ConfigError, match=rf"^{path}, line 1: .* m\.mar of m 1\.0\. .* --ncs$"):
        load_config({"model_store": "store"}, {}, tmp_path)


async def test_a_snapshot_goes_before_load_models(tmp_path: Path) -> None:
    """TorchServe ignored --models then, and described the models as not loaded at startup."""
    model_folder(tmp_path / "store")
    left(tmp_path)
    config = load_config({"model_store": "store", "models": ("other.mar",)}, {}, tmp_path)
    assert any("load_models=other.mar is ignored" in warning for warning in config.warnings)
    async with Site(tmp_path, model_snapshot=config.model_snapshot) as site:
        assert config.model_snapshot is not None
        await site.management.startup.restore(config.model_snapshot)
        described = (await site.management.describe("m", None))[0]
        assert described["loadedAtStartup"] is False


# Archives


def test_a_workflows_export_folder_must_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spec.yaml").write_text("dag: {}")
    (tmp_path / "f.py").write_text("")
    words = ["--workflow-name", "w", "--spec-file", f"{tmp_path}/spec.yaml"]
    words += ["--handler", f"{tmp_path}/f.py", "--export-path", f"{tmp_path}/absent"]
    args = ArgParser.workflow_archiver_args_parser().parse_args(words)
    with pytest.raises(SystemExit) as caught:
        package_workflow(args, "{}")
    assert caught.value.code == 1
    assert "absent is not a directory" in caplog.text
    assert not (tmp_path / "absent").exists()


async def test_parallel_workers_are_numbered_by_their_ports(site: Site) -> None:
    for name, kind in (("a", "tp"), ("b", "custom"), ("c", "pp")):
        await site.register(site.model(name, yaml=f"parallelType: {kind}\nparallelLevel: 4\n"))
    await site.register(site.model("plain"))
    assert [spec.id for spec in site.backend.specs] == ["29500", "29504", "29508", "9000"]
    assert site.backend.specs[1].ranks is None


async def test_torchrun_goes_before_the_level(site: Site) -> None:
    section = "torchrun: {nproc-per-node: 2}\nparallelLevel: 4\n"
    await site.register(site.model("a", yaml=f"parallelType: tp\n{section}"))
    await site.register(site.model("b", yaml=section))
    assert [spec.ranks for spec in site.backend.specs] == [Ranks(2, 29500, True), None]


async def test_a_pipeline_is_asked_at_its_first_rank(site: Site) -> None:
    for kind in ("pp", "tp", "pptp"):
        yaml = f"parallelType: {kind}\nparallelLevel: 2\n"
        await site.register(site.model(kind, yaml=yaml))
    asked = [spec.ranks.all_predict for spec in site.backend.specs if spec.ranks]
    assert asked == [False, True, True]
