"""The handlers of language models against small stand-ins for their engines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace

import pytest

from tests.handlers.optional_packages import pretend
from ts.context import Context
from ts.handler_utils.utils import create_predict_response
from ts.torch_handler.trt_llm_handler import TRTLLMHandler
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.util import PredictionException

OPENAI = "vllm.entrypoints.openai"


class Model(SimpleNamespace):
    """Stands for pydantic's: validates what the tests send, and dumps itself."""

    @classmethod
    def model_validate(cls, body):
        if not isinstance(body, dict) or "model" not in body:
            raise ValueError("model: Field required")
        return cls(**{"stream": False, **body})

    def model_dump(self):
        return vars(self)


class CompletionRequest(Model):
    pass


class ChatCompletionRequest(Model):
    pass


class ErrorResponse(Model):
    pass


class Engine:
    def __init__(self, arguments):
        self.arguments = arguments

    @classmethod
    def from_engine_args(cls, arguments):
        return cls(arguments)

    async def get_model_config(self):
        return "config of " + self.arguments.model


class Answers:
    """What both services do: three events, an answer or an error, by the request."""

    async def answer(self, request):
        if request.model not in ("tiny", self.engine_client.arguments.model):
            return ErrorResponse(message="The model does not exist", code=404)
        if request.stream:
            return self.events()
        return Model(text=f"{type(request).__name__} to {request.model}")

    async def events(self):
        try:
            for number in range(3):
                yield f"data: {number}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.closed = True


class Completions(Answers):
    def __init__(self, engine_client, models, *, request_logger):
        self.engine_client, self.models = engine_client, models

    async def create_completion(self, request, raw_request):
        return await self.answer(request)


class Chat(Answers):
    def __init__(self, engine_client, model_config, models, response_role, *, chat_template):
        self.engine_client, self.config = engine_client, model_config
        self.role, self.template = response_role, chat_template

    async def create_chat_completion(self, request, raw_request):
        return await self.answer(request)


class Models:
    def __init__(self, engine_client, model_config, base_model_paths, *, lora_modules):
        self.paths, self.adapters, self.loaded = base_model_paths, lora_modules, False

    async def init_static_loras(self):
        self.loaded = True

    async def show_available_models(self):
        return Model(data=[path[0] for path in [*self.paths, *self.adapters]])


class OldService(Answers):
    """As before there was a service for the models' list."""

    def __init__(self, engine_client, model_config, base_model_paths, *, lora_modules, **more):
        self.engine_client, self.paths = engine_client, base_model_paths

    async def create_completion(self, request, raw_request):
        return await self.answer(request)

    async def show_available_models(self):
        return Model(data=[path[0] for path in self.paths])


def engine_args(model, max_num_seqs=1, served_model_name=None):
    return SimpleNamespace(
        model=model, max_num_seqs=max_num_seqs, served_model_name=served_model_name
    )


@pytest.fixture
def loop():
    """The main thread's loop, on which a handler initialises and answers."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def vllm(monkeypatch, loop):
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    protocol = [CompletionRequest, ChatCompletionRequest, ErrorResponse]
    named = {kind.__name__: kind for kind in protocol}
    pretend(monkeypatch, "vllm", AsyncEngineArgs=engine_args, AsyncLLMEngine=Engine)
    pretend(monkeypatch, f"{OPENAI}.protocol", **named)
    pretend(monkeypatch, f"{OPENAI}.serving_completion", OpenAIServingCompletion=Completions)
    pretend(monkeypatch, f"{OPENAI}.serving_chat", OpenAIServingChat=Chat)
    pretend(
        monkeypatch,
        f"{OPENAI}.serving_models",
        BaseModelPath=lambda name, model_path: (name, model_path),
        LoRAModulePath=lambda name, path: (name, path),
        OpenAIServingModels=Models,
    )


def context(folder, **handler) -> Context:
    return Context("llm", str(folder), None, 1, 0, "0", model_yaml_config={"handler": handler})


def ask(handler, ctx, loop, path="", *rows, parts=None):
    """Run a batch as a worker does; streamed parts go into ``parts``."""
    sent = [] if parts is None else parts
    ctx._chunk_sink = lambda request_id, status, reason, headers, body: sent.append(bytes(body))
    ctx.start_batch(
        [{"url_path": path} for _ in rows], {idx: f"r{idx}" for idx in range(len(rows))}
    )
    return loop.run_until_complete(handler.handle(list(rows), ctx))


@pytest.fixture
def served(vllm, tmp_path, loop):
    (tmp_path / "weights").mkdir()
    ctx = context(
        tmp_path,
        model_path="weights",
        vllm_engine_config={"max_num_seqs": 16, "served_model_name": ["tiny", "alias"]},
        adapters={"lora": "adapter"},
        chat_template="{{ messages }}",
    )
    handler = VLLMHandler()
    handler.initialize(ctx)
    return handler, ctx


def test_vllm_starts_by_the_yaml(served, tmp_path, monkeypatch):
    handler, _ = served
    arguments = handler.vllm_engine.arguments
    assert (arguments.model, arguments.max_num_seqs) == (str(tmp_path / "weights"), 16)
    assert handler.model_service.paths == [(name, arguments.model) for name in ("tiny", "alias")]
    assert handler.model_service.adapters == [("lora", "adapter")]
    assert handler.model_service.loaded
    assert handler.chat_completion_service.template == "{{ messages }}"
    assert handler.chat_completion_service.role == "assistant"
    assert handler.chat_completion_service.config == f"config of {arguments.model}"
    assert handler.initialized
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("v1/models", {"data": ["tiny", "alias", "lora"]}),
        ("v1/completions", {"text": "CompletionRequest to tiny"}),
        ("v1/chat/completions", {"text": "ChatCompletionRequest to tiny"}),
    ],
)
def test_vllm_routes_by_the_path(served, loop, path, answer):
    row = {"body": {"model": "tiny"}} if path != "v1/models" else {}
    assert ask(*served, loop, path, row) == [answer]


def test_vllm_streams_each_event_and_ends_with_done(served, loop):
    parts: list[bytes] = []
    body = json.dumps({"model": "tiny", "stream": True}).encode()
    result = ask(*served, loop, "v1/completions", {"data": bytearray(body)}, parts=parts)
    assert parts == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
    assert result == ["data: [DONE]\n\n"]
    assert served[0].completion_service.closed


def test_vllm_stops_for_a_client_that_has_left(served, loop):
    handler, ctx = served
    ctx._cancel_probe = lambda request_id: True
    parts: list[bytes] = []
    ask(
        handler,
        ctx,
        loop,
        "v1/completions",
        {"body": {"model": "tiny", "stream": True}},
        parts=parts,
    )
    assert parts == []
    assert handler.completion_service.closed


@pytest.mark.parametrize(
    ("path", "rows", "code", "text"),
    [
        ("v2/else", [{"body": {}}], 404, "Unknown API endpoint: v2/else"),
        ("v1/completions", [{"body": b"{"}], 400, "The body is no JSON"),
        ("v1/completions", [{"body": {}}], 400, "model: Field required"),
        ("v1/completions", [{}, {}], 500, "set batchSize: 1"),
    ],
)
def test_vllm_refuses_with_a_status(served, loop, path, rows, code, text):
    with pytest.raises(PredictionException, match=text) as caught:
        ask(*served, loop, path, *rows)
    assert caught.value.error_code == code


def test_vllm_passes_its_errors_on_with_their_status(served, loop):
    handler, ctx = served
    answer = ask(handler, ctx, loop, "v1/completions", {"body": {"model": "other"}})
    assert answer == [{"message": "The model does not exist", "code": 404}]
    assert ctx.get_response_status(0)[0] == 404


def test_an_earlier_vllm_lists_its_models_by_another_service(vllm, monkeypatch, tmp_path, loop):
    old = vars(sys.modules[f"{OPENAI}.serving_models"])
    pretend(
        monkeypatch,
        f"{OPENAI}.serving_engine",
        BaseModelPath=old["BaseModelPath"],
        LoRAModulePath=old["LoRAModulePath"],
    )
    monkeypatch.setitem(sys.modules, f"{OPENAI}.serving_models", None)
    for name in ("completion", "chat"):
        pretend(
            monkeypatch,
            f"{OPENAI}.serving_{name}",
            OpenAIServingCompletion=OldService,
            OpenAIServingChat=OldService,
        )
    handler, ctx = VLLMHandler(), context(tmp_path, vllm_engine_config={"model": "id/of"})
    handler.initialize(ctx)
    assert ask(handler, ctx, loop, "v1/models", {}) == [{"data": ["id/of"]}]


def test_what_keeps_vllm_from_starting_is_named(vllm, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="names no model"):
        VLLMHandler().initialize(context(tmp_path))
    with pytest.raises(ValueError, match=r"vllm_engine_config of the model's yaml.*max_seqs"):
        VLLMHandler().initialize(
            context(tmp_path, vllm_engine_config={"model": "m", "max_seqs": 1})
        )

    class Newer:
        def __init__(self, engine_client, renderer):
            pass

    pretend(monkeypatch, f"{OPENAI}.serving_chat", OpenAIServingChat=Newer)
    with pytest.raises(RuntimeError, match="is not known to this handler: Newer wants renderer"):
        VLLMHandler().initialize(context(tmp_path, model_path="m"))


def test_without_the_engines_the_error_says_what_to_install(tmp_path):
    with pytest.raises(ImportError, match="pip install vllm"):
        VLLMHandler().initialize(context(tmp_path, model_path="m"))
    with pytest.raises(ImportError, match="pip install tensorrt-llm"):
        TRTLLMHandler().initialize(context(tmp_path, engine_dir="e", tokenizer_dir="t"))


class Generation:
    """What `generate_async` gives: awaitable pieces, or one result."""

    def __init__(self, prompt, sampling):
        self.words, self.aborted = f"{prompt} {sampling.max_tokens}".split(" "), False

    async def aresult(self):
        return SimpleNamespace(outputs=[SimpleNamespace(text=" ".join(self.words))])

    def abort(self):
        self.aborted = True

    async def __aiter__(self):
        for word in self.words:
            yield SimpleNamespace(outputs=[SimpleNamespace(text_diff=word)])


class LLM:
    def __init__(self, model, tokenizer, kv_cache_config=None):
        self.made = (model, tokenizer, kv_cache_config)

    def generate_async(self, prompt, sampling_params, streaming):
        self.generation = Generation(prompt, sampling_params)
        return self.generation


def sampling_params(max_tokens=7):
    return SimpleNamespace(max_tokens=max_tokens)


@pytest.fixture
def tensorrt(monkeypatch, tmp_path):
    pretend(monkeypatch, "tensorrt_llm", LLM=LLM, SamplingParams=sampling_params)
    pretend(monkeypatch, "tensorrt_llm.llmapi", KvCacheConfig=lambda **fields: fields)
    (tmp_path / "engine").mkdir()
    ctx = context(
        tmp_path,
        engine_dir="engine",
        tokenizer_dir="org/tokenizer",
        kv_cache_config={"free_gpu_memory_fraction": 0.1},
    )
    handler = TRTLLMHandler()
    handler.initialize(ctx)
    return handler, ctx


def test_tensorrt_loads_by_the_yaml(tensorrt, tmp_path):
    cache = {"free_gpu_memory_fraction": 0.1}
    assert tensorrt[0].trt_llm_engine.made == (str(tmp_path / "engine"), "org/tokenizer", cache)
    with pytest.raises(ValueError, match="lacks engine_dir and tokenizer_dir"):
        TRTLLMHandler().initialize(context(tmp_path))


def test_tensorrt_answers_whole_and_in_pieces(tensorrt, loop):
    assert ask(*tensorrt, loop, "", {"body": {"prompt": "to be"}}) == ['{"text": "to be 7"}']
    parts: list[bytes] = []
    body = {"prompt": "to be", "streaming": True, "max_tokens": 9}
    assert ask(*tensorrt, loop, "", {"body": body}, parts=parts) == [""]
    assert parts == [b'{"text": "to"}', b'{"text": "be"}', b'{"text": "9"}']
    tensorrt[1]._cancel_probe = lambda request_id: True
    ask(*tensorrt, loop, "", {"body": body})
    assert tensorrt[0].trt_llm_engine.generation.aborted


@pytest.mark.parametrize("body", [b"{", {}, "3", {"prompt": "a", "unknown": 1}])
def test_tensorrt_refuses_a_body_that_is_no_request(tensorrt, loop, body):
    with pytest.raises(PredictionException) as caught:
        ask(*tensorrt, loop, "", {"body": body})
    assert caught.value.error_code == 400


def test_the_batchs_encoder_is_where_async_code_imports_it():
    assert bytes(create_predict_response(["x"], {0: "r"}, "m", 200)).endswith(b"x\xff\xff\xff\xff")
