"""vLLM's engine and its OpenAI services, whose places and arguments differ between its versions.

`vllm_handler` uses them. Known are 0.6 (before and with `serving_models`) and later ones that take
arguments of these names.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any, Callable, Dict, NamedTuple, Optional

from ts.async_service import main_loop
from ts.optional import require
from ts.torch_handler.prompts import inside

_OPENAI = "vllm.entrypoints.openai"


class Services(NamedTuple):
    """Who answers for the models' list, for completions and for chats."""

    models: Any
    completions: Any
    chat: Any


def protocol() -> ModuleType:
    """vLLM's module of OpenAI's requests and answers."""
    return _module(f"{_OPENAI}.protocol")


def engine_arguments(config: Dict[str, Any], model_dir: str) -> Any:
    """`AsyncEngineArgs` of a yaml's section ``handler``.

    Raises:
        ValueError: no model, or a field that this vLLM does not know.
    """
    fields = dict(config.get("vllm_engine_config") or {})
    if not fields.get("model"):
        named = config.get("model_path")
        if not named:
            raise ValueError(
                "The model's yaml names no model: add `handler: {vllm_engine_config: {model: "
                "<id or path>}}`, or model_path with a folder of the archive"
            )
        fields["model"] = inside(model_dir, named)
    arguments = _module("vllm").AsyncEngineArgs
    try:
        return arguments(**fields)
    except TypeError as error:
        raise ValueError(f"vllm_engine_config of the model's yaml: {error}") from error


def adapter_paths(config: Dict[str, Any], model_dir: str) -> Dict[str, str]:
    """Name to path of the LoRA adapters; paths of the archive's own folders become absolute."""
    paths = config.get("adapters") or {}
    return {name: inside(model_dir, path) for name, path in paths.items()}


def start(arguments: Any) -> Any:
    """The running engine."""
    return _module("vllm").AsyncLLMEngine.from_engine_args(arguments)


def services(
    engine: Any, arguments: Any, adapters: Dict[str, str], chat_template: Optional[str]
) -> Services:
    """The services of an engine, under the model's served name, else its id or path."""
    served = getattr(arguments, "served_model_name", None) or [arguments.model]
    names = [served] if isinstance(served, str) else list(served)
    model_config = _completed(engine.get_model_config())
    place = _models_module()
    shared: Dict[str, Any] = {
        "engine_client": engine,
        "model_config": model_config,
        "base_model_paths": [place.BaseModelPath(name, arguments.model) for name in names],
        "lora_modules": [place.LoRAModulePath(*pair) for pair in adapters.items()],
        "prompt_adapters": [],
        "request_logger": None,
        "response_role": "assistant",
        "chat_template": chat_template,
        "chat_template_content_format": "auto",
    }
    models = None
    if hasattr(place, "OpenAIServingModels"):
        models = _built(place.OpenAIServingModels, shared)
        if hasattr(models, "init_static_loras"):
            _completed(models.init_static_loras())
        shared["models"] = models
    completions = _built(_module(f"{_OPENAI}.serving_completion").OpenAIServingCompletion, shared)
    chat = _built(_module(f"{_OPENAI}.serving_chat").OpenAIServingChat, shared)
    # Before there was a service for it, each of the others listed the models.
    return Services(completions if models is None else models, completions, chat)


def error_code(answer: Any) -> int:
    """The HTTP status of vLLM's `ErrorResponse`."""
    inner = getattr(answer, "error", answer)
    return int(getattr(inner, "code", None) or 500)


def _models_module() -> ModuleType:
    try:
        return importlib.import_module(f"{_OPENAI}.serving_models")
    except ModuleNotFoundError:
        return _module(f"{_OPENAI}.serving_engine")


def _built(service: Callable[..., Any], options: Dict[str, Any]) -> Any:
    """Call a class with those of the options that this version's knows."""
    parameters = inspect.signature(service).parameters
    known = {name: value for name, value in options.items() if name in parameters}
    required = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    if required - set(known):
        version = getattr(_module("vllm"), "__version__", "of this version")
        raise RuntimeError(
            f"vLLM {version} is not known to this handler: {getattr(service, '__name__', service)} "
            f"wants {', '.join(sorted(required - set(known)))}. Install an earlier one."
        )
    return service(**known)


def _completed(value: Any) -> Any:
    """The result of a coroutine, run on the loop that will answer the requests."""
    if not inspect.isawaitable(value):
        return value
    return main_loop().run_until_complete(value)


def _module(name: str) -> ModuleType:
    return require(name, "vllm", "The handler vllm_handler")
