"""One server, used as its users do: predict, register, scale, versions, batches, streams."""

from __future__ import annotations

import io
import json

import pytest
import torch
import torchvision
from PIL import Image

from tests.e2e.conftest import MARS, Server, archive, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(enable_model_api="true", default_workers_per_model=1)
    archive(server.store, "echo", MARS / "echo.py")
    archive(server.store, "whoami", MARS / "whoami.py")
    archive(server.store, "slow", MARS / "slow.py")
    archive(server.store, "stream", MARS / "stream.py")
    server.start("--models", "echo=echo.mar", "me=whoami.mar")
    until(lambda: server.ready("echo") and server.ready("me"))
    return server


def test_raw_bytes_json_and_multipart_reach_the_handler(server):
    assert server.predict("echo", b"\x00\xff raw").body == b"\x00\xff raw"
    parsed = server.predict("echo", b'{"a": [1, 2]}', Content_Type="application/json")
    assert parsed.text == '{\n  "a": [\n    1,\n    2\n  ]\n}'
    boundary = "b0undary"
    part = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="data"; filename="x.bin"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\nfile\x00bytes\r\n--{boundary}--\r\n"
    )
    kind = f"multipart/form-data; boundary={boundary}"
    assert server.predict("echo", part.encode(), Content_Type=kind).body == b"file\x00bytes"


def test_an_answer_carries_torchserves_headers(server):
    answer = server.predict("echo")
    assert answer.status == 200
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["Pragma"] == "no-cache"
    assert "Server" not in answer.headers
    assert "content-type" not in {name.lower() for name in answer.headers}


def test_two_models_run_in_workers_of_their_own(server):
    me = server.predict("me").json
    assert me["model_name"] == "me"
    assert me["pid"] == server.workers("me")[0]["pid"] != server.workers("echo")[0]["pid"]
    assert me["threads"] >= 1


def test_health_needs_no_token_and_predictions_do(server):
    assert server.ask(0, "GET", "/ping", Authorization="").json == {"status": "Healthy"}
    refused = server.predict("echo", Authorization="Bearer wrong")
    assert refused.status == 400
    assert refused.json["type"] == "InvalidKeyException"


def test_unknown_model_path_and_version_are_named(server):
    assert server.predict("nobody").json == {
        "code": 404,
        "type": "ModelNotFoundException",
        "message": "Model not found: nobody",
    }
    assert server.predict("echo/9.9").json["type"] == "ModelVersionNotFoundException"
    assert server.ask(0, "GET", "/nowhere").status == 404


def test_versions_are_registered_scaled_made_default_and_removed(server):
    for version in ("1.0", "2.0"):
        archive(server.store, "twin", MARS / "echo_class.py", version=version)
        (server.store / "twin.mar").rename(server.store / f"twin-{version}.mar")
        answer = server.register(f"twin-{version}.mar", initial_workers=1, synchronous="true")
        assert answer.status == 200, answer.text
        text = f'Model "twin" Version: {version} registered with 1 initial workers'
        assert answer.json == {"status": text}
    assert server.register("twin-2.0.mar").status == 409
    assert server.manage("GET", "/models/twin").json[0]["modelVersion"] == "1.0"
    assert server.manage("PUT", "/models/twin/2.0/set-default").status == 200
    assert server.manage("GET", "/models/twin").json[0]["modelVersion"] == "2.0"
    assert server.predict("twin/1.0").status == server.predict("twin").status == 200
    scaled = server.manage("PUT", "/models/twin/1.0", min_worker=2, synchronous="true")
    assert scaled.json == {"status": "Workers scaled to 2 for model: twin, version: 1.0"}
    described = server.manage("GET", "/models/twin/all").json
    assert sorted(len(version["workers"]) for version in described) == [1, 2]
    assert server.manage("DELETE", "/models/twin").status == 403
    assert server.manage("DELETE", "/models/twin/1.0").status == 200
    assert server.manage("DELETE", "/models/twin").json == {"status": 'Model "twin" unregistered'}
    assert server.predict("twin").status == 404


def test_eight_clients_make_one_batch_of_eight(server, pool):
    config = server.folder / "batch.yaml"
    config.write_text("batchPolicy: delay\nbatchSize: 8\nmaxBatchDelay: 5000\nminWorkers: 1\n")
    archive(server.store, "batched", MARS / "slow.py", "--config-file", str(config))
    assert server.register("batched.mar", synchronous="true").status == 200
    answers = list(pool.map(lambda _: server.predict("batched", b"0"), range(8)))
    assert {answer.text for answer in answers} == {"8"}


def test_a_stream_arrives_in_chunks(server):
    assert server.register("stream.mar", initial_workers=1, synchronous="true").status == 200
    answer = server.predict("stream", b"2")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "part 0\npart 1\nend\n"


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_a_typical_custom_handler_serves_a_torchscript_resnet(server):
    model = torchvision.models.resnet18(weights=None).eval()
    weights = server.folder / "resnet18.pt"
    with torch.inference_mode():
        torch.jit.trace(model, torch.rand(1, 3, 224, 224)).save(str(weights))
    names = server.folder / "index_to_name.json"
    names.write_text(json.dumps({str(i): [f"n{i}", f"class {i}"] for i in range(1000)}))
    archive(
        server.store,
        "resnet",
        MARS / "resnet_topk.py",
        *("--serialized-file", str(weights), "--extra-files", str(names)),
    )
    answer = server.register("resnet.mar", initial_workers=1, synchronous="true")
    assert answer.status == 200, answer.text
    picture = io.BytesIO()
    Image.new("RGB", (300, 260), "orange").save(picture, "JPEG")
    top = server.predict("resnet", picture.getvalue()).json
    assert len(top) == 5
    assert all(name.startswith("class ") for name in top)
    assert list(top.values()) == sorted(top.values(), reverse=True)
    assert "deprecated" not in server.log("model_log").lower()


def test_metrics_and_logs_are_written(server):
    server.predict("echo")
    metrics = server.ask(2, "GET", "/metrics").text
    assert 'ts_inference_requests_total{model_name="echo",model_version="default"' in metrics
    assert "PredictionTime" in metrics
    until(lambda: '"POST /predictions/echo HTTP/1.1" 200' in server.log("access_log"))
    until(lambda: "PredictionTime.ms:" in server.log("model_metrics"))


def test_paging_through_the_list_of_models(server):
    first = server.manage("GET", "/models", limit=1).json
    assert len(first["models"]) == 1
    following = server.manage("GET", "/models", next_page_token=first["nextPageToken"]).json
    assert first["models"][0] not in following["models"]
