"""The built-in handler `trt_llm_handler`: a language model compiled by TensorRT-LLM.

The model's yaml needs ``asyncCommunication: true`` and a section ``handler``. TensorRT-LLM is
imported by `initialize`.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any, Dict, List

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.optional import require
from ts.service import PredictionException
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.prompts import inside, single_body


class TRTLLMHandler(BaseHandler):
    """Completes the ``prompt`` of a JSON body; the rest of it is TensorRT-LLM's `SamplingParams`.

    ``handler: {engine_dir, tokenizer_dir, kv_cache_config: {...}}``. With ``streaming`` in the body
    each new piece of text is a JSON object ``{"text": ...}`` of its own, and the end is empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trt_llm_engine: Any = None

    def initialize(self, context: Context) -> None:
        """Load the engine.

        Raises:
            ValueError: the yaml lacks ``engine_dir`` or ``tokenizer_dir``.
            ImportError: TensorRT-LLM is not installed.
        """
        config = (context.model_yaml_config or {}).get("handler") or {}
        missing = [key for key in ("engine_dir", "tokenizer_dir") if not config.get(key)]
        if missing:
            raise ValueError(
                f"The model's yaml lacks {' and '.join(missing)}: add `handler: {{engine_dir: "
                "<folder>, tokenizer_dir: <folder or id>}`"
            )
        model_dir = context.system_properties["model_dir"]
        module = _module()
        options: Dict[str, Any] = {"tokenizer": inside(model_dir, config["tokenizer_dir"])}
        if config.get("kv_cache_config"):
            options["kv_cache_config"] = _llm_api().KvCacheConfig(**config["kv_cache_config"])
        self.trt_llm_engine = module.LLM(model=inside(model_dir, config["engine_dir"]), **options)
        self.initialized = True

    async def handle(self, data: List[Any], context: Context) -> Any:
        """Answer a batch of one request; an asynchronous entry point.

        Raises:
            PredictionException: 400 for a body without a prompt or with unknown parameters.
        """
        prepared = await self.preprocess(data)
        result = await self.inference(prepared, context)
        return await self.postprocess(result)

    async def preprocess(self, data: List[Any]) -> Any:
        """The request's JSON object."""
        body = single_body(data)
        if not isinstance(body, dict) or not body.get("prompt"):
            raise PredictionException("The body must be a JSON object with a prompt", 400)
        return body

    async def inference(self, request: Dict[str, Any], context: Context) -> List[str]:
        """Generate the text; with ``streaming`` its pieces go out as they come."""
        options = dict(request)
        prompt, streaming = options.pop("prompt"), bool(options.pop("streaming", False))
        try:
            sampling = _module().SamplingParams(**options)
        except (TypeError, ValueError) as error:
            raise PredictionException(f"The request is not valid: {error}", 400) from error
        generation = self.trt_llm_engine.generate_async(
            prompt, sampling_params=sampling, streaming=streaming
        )
        if not streaming:
            output = await generation.aresult()
            return [json.dumps({"text": output.outputs[0].text})]
        async for output in generation:
            if context.is_cancelled(0):
                generation.abort()
                break
            piece = json.dumps({"text": output.outputs[0].text_diff})
            send_intermediate_predict_response(
                [piece], context.request_ids or {}, "Result", 200, context
            )
        return [""]

    async def postprocess(self, inference_outputs: Any) -> Any:
        """What `inference` returned."""
        return inference_outputs


def _module() -> ModuleType:
    return require("tensorrt_llm", "tensorrt-llm", "The handler trt_llm_handler")


def _llm_api() -> ModuleType:
    return require("tensorrt_llm.llmapi", "tensorrt-llm", "The handler trt_llm_handler")
