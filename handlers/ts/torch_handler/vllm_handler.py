"""The built-in handler `vllm_handler`: a language model behind OpenAI's API, run by vLLM.

The model's yaml needs ``asyncCommunication: true`` and a section ``handler``. Clients call
``/predictions/<model>/<version>/v1/completions`` and so on. vLLM is imported by `initialize`.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.service import PredictionException
from ts.torch_handler import vllm_engine
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.prompts import single_body

_DONE = "data: [DONE]\n\n"


class VLLMHandler(BaseHandler):
    """Answers v1/models, v1/completions and v1/chat/completions, streaming where it is asked to.

    ``handler: {vllm_engine_config: {...}, model_path, adapters: {name: path}, chat_template}``; the
    first are fields of vLLM's `AsyncEngineArgs`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vllm_engine: Any = None
        self.adapters: Dict[str, str] = {}
        self.model_service: Any = None
        self.completion_service: Any = None
        self.chat_completion_service: Any = None

    def initialize(self, context: Context) -> None:
        """Start vLLM's engine and its OpenAI services.

        Raises:
            ValueError: the yaml names no model, or a field that vLLM does not know.
            ImportError: vLLM is not installed.
        """
        # vLLM's own processes must not be forks of one that has touched CUDA.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        config = (context.model_yaml_config or {}).get("handler") or {}
        model_dir = context.system_properties["model_dir"]
        arguments = vllm_engine.engine_arguments(config, model_dir)
        self.adapters = vllm_engine.adapter_paths(config, model_dir)
        self.vllm_engine = vllm_engine.start(arguments)
        services = vllm_engine.services(
            self.vllm_engine, arguments, self.adapters, config.get("chat_template")
        )
        self.model_service = services.models
        self.completion_service = services.completions
        self.chat_completion_service = services.chat
        self.initialized = True

    async def handle(self, data: List[Any], context: Context) -> Any:
        """Answer a batch of one request; an asynchronous entry point.

        Raises:
            PredictionException: 400 for a body that is no request, 404 for another path.
        """
        prepared = await self.preprocess(data)
        result = await self.inference(prepared, context)
        return await self.postprocess(result)

    async def preprocess(self, data: List[Any]) -> Any:
        """The request's JSON object in a list; an empty one for a GET."""
        return [single_body(data) or {}]

    async def inference(self, input_batch: List[Any], context: Context) -> List[Any]:
        """Pass the request on to the service that its path names; parts go out as they come."""
        path = context.get_request_header(0, "url_path") or ""
        if path == "v1/models":
            models = await self.model_service.show_available_models()
            return [models.model_dump()]
        protocol = vllm_engine.protocol()
        if path == "v1/completions":
            kind, create = protocol.CompletionRequest, self.completion_service.create_completion
        elif path == "v1/chat/completions":
            kind = protocol.ChatCompletionRequest
            create = self.chat_completion_service.create_chat_completion
        else:
            raise PredictionException(f"Unknown API endpoint: {path}", 404)
        try:
            request = kind.model_validate(input_batch[0])
        except ValueError as error:
            raise PredictionException(f"The request is not valid: {error}", 400) from error
        answer = await create(request, None)
        if isinstance(answer, protocol.ErrorResponse):
            context.set_response_status(vllm_engine.error_code(answer), "", 0)
            return [answer.model_dump()]
        if request.stream:
            return await self._stream(answer, context)
        return [answer.model_dump()]

    async def postprocess(self, inference_outputs: Any) -> Any:
        """What `inference` returned."""
        return inference_outputs

    async def _stream(self, chunks: Any, context: Context) -> List[str]:
        """Send each event on its own; the last one is the result that ends the answer."""
        try:
            async for chunk in chunks:
                if chunk == _DONE or context.is_cancelled(0):
                    break
                send_intermediate_predict_response(
                    [chunk], context.request_ids or {}, "Result", 200, context
                )
        finally:
            # Without it vLLM goes on generating for a client that has left.
            await chunks.aclose()
        return [_DONE]
