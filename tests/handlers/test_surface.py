"""Every symbol that handlers, tests and tools import from TorchServe 0.12's package `ts` is here,
and is called the same way.

What each does is tested elsewhere in this folder; docs/handlers.md lists where it differs.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import ts

# Symbols by module, with the parameters of what can be called, those of a class for its instances.
# "-" is anything else. Further parameters may follow TorchServe's, if they have a default. Where
# TorchServe has a mutable default, [], there is None or () here.
CALLED = """
ts.context
    Context (model_name, model_dir, manifest, batch_size, gpu, mms_version,
        limit_max_image_pixels=True, metrics=None, model_yaml_config=None)
    Context.get_request_id (self, idx=0)
    Context.get_request_header (self, idx, key)
    Context.get_all_request_header (self, idx)
    Context.set_response_content_type (self, idx, value)
    Context.get_response_content_type (self, idx)
    Context.get_response_status (self, idx)
    Context.set_response_status (self, code=200, phrase='', idx=0)
    Context.set_all_response_status (self, code=200, phrase='')
    Context.get_response_headers (self, idx)
    Context.set_response_header (self, idx, key, value)
    Context.get_sequence_id (self, idx)
    Context.system_properties -
    Context.request_processor -
    Context.metrics -
    RequestProcessor (request_header)
    RequestProcessor.get_request_property (self, key)
    RequestProcessor.get_request_properties (self)
    RequestProcessor.report_status (self, code, reason_phrase=None)
    RequestProcessor.get_response_status_code (self)
    RequestProcessor.get_response_status_phrase (self)
    RequestProcessor.add_response_property (self, key, value)
    RequestProcessor.get_response_headers (self)
    RequestProcessor.get_response_header (self, key)
ts.torch_handler.base_handler
    BaseHandler ()
    BaseHandler.initialize (self, context)
    BaseHandler.preprocess (self, data)
    BaseHandler.inference (self, data, *args, **kwargs)
    BaseHandler.postprocess (self, data)
    BaseHandler.handle (self, data, context)
    BaseHandler.explain_handle (self, data_preprocess, raw_data)
    BaseHandler.describe_handle (self)
    BaseHandler.get_device (self)
    BaseHandler._is_explain (self)
    BaseHandler._is_describe (self)
    BaseHandler._infer_with_profiler (self, data)
    BaseHandler._load_pickled_model (self, model_dir, model_file, model_pt_path)
    BaseHandler._load_torchscript_model (self, model_pt_path)
    BaseHandler._load_torch_export_aot_compile (self, model_so_path)
    BaseHandler._use_torch_export_aot_compile (self)
    setup_ort_session (model_pt_path, map_location)
    PROFILER_AVAILABLE -
    XLA_AVAILABLE -
    PT2_AVAILABLE -
    PT230_AVAILABLE -
    IPEX_AVAILABLE -
    ONNX_AVAILABLE -
    ProfilerActivity -
    profile -
    record_function -
ts.torch_handler.vision_handler
    VisionHandler ()
    VisionHandler.initialize (self, context)
    VisionHandler.preprocess (self, data)
    VisionHandler.get_insights (self, tensor_data, _, target=0)
ts.torch_handler.image_classifier
    ImageClassifier ()
    ImageClassifier.topk -
    ImageClassifier.image_processing -
    ImageClassifier.set_max_result_classes (self, topk)
    ImageClassifier.get_max_result_classes (self)
    ImageClassifier.postprocess (self, data)
ts.torch_handler.image_segmenter
    ImageSegmenter ()
    ImageSegmenter.image_processing -
ts.torch_handler.object_detector
    ObjectDetector ()
    ObjectDetector.threshold -
    ObjectDetector.image_processing -
ts.torch_handler.text_handler
    TextHandler ()
    TextHandler.get_source_vocab_path (self, ctx)
    TextHandler.get_word_token (self, input_tokens)
    TextHandler.summarize_attributions (self, attributions)
    TextHandler._expand_contractions (self, text)
    TextHandler._remove_accented_characters (self, text)
    TextHandler._remove_html_tags (self, text)
    TextHandler._remove_punctuation (self, text)
    TextHandler._remove_puncutation (self, text)
    TextHandler._tokenize (self, text)
    CONTRACTIONS_PATTERN -
ts.torch_handler.text_classifier
    TextClassifier ()
    TextClassifier.ngrams -
ts.torch_handler.contractions
    CONTRACTION_MAP -
ts.torch_handler.densenet_handler
    DenseNetHandler ()
ts.torch_handler.dali_handler
    DALIHandler ()
ts.torch_handler.dali_image_classifier
    DALIImageClassifier ()
ts.torch_handler.vllm_handler
    VLLMHandler ()
ts.torch_handler.trt_llm_handler
    TRTLLMHandler ()
ts.torch_handler.distributed.base_pippy_handler
    BasePippyHandler ()
    BasePippyHandler.initialize (self, ctx)
ts.torch_handler.distributed.base_deepspeed_handler
    BaseDeepSpeedHandler ()
    BaseDeepSpeedHandler.initialize (self, ctx)
ts.torch_handler.request_envelope.base
    BaseEnvelope (handle_fn)
    BaseEnvelope.handle (self, data, context)
    BaseEnvelope.parse_input (self, data)
    BaseEnvelope.format_output (self, data)
ts.torch_handler.request_envelope.body
    BodyEnvelope (handle_fn)
ts.torch_handler.request_envelope.json
    JSONEnvelope (handle_fn)
ts.torch_handler.request_envelope.kserve
    KServeEnvelope (handle_fn)
ts.torch_handler.request_envelope.kservev2
    KServev2Envelope (handle_fn)
ts.torch_handler.unit_tests.test_utils.mock_context
    MockContext (model_pt_file='model.pt', model_dir='ts/torch_handler/unit_tests/models/tmp',
        model_file='model.py', gpu_id='0', model_name='mnist', model_yaml_config_file=None)
    MockContext.get_request_header (self, idx, exp)
ts.torch_handler.unit_tests.test_utils.model_dir
    download_model (model_url, model_dir)
    copy_files (src_dir, dst_dir, files)
ts.handler_utils.timer
    timed (method)
ts.handler_utils.utils
    send_intermediate_predict_response (ret, req_id_map, message, code, context)
    import_class (class_name, module_prefix=None)
    create_predict_response (ret, req_id_map, message, code, context=None, ts_stream_next=False)
ts.handler_utils.text_utils
    ngrams_iterator (token_list, ngrams)
    get_tokenizer (tokenizer, language='en')
    _basic_english_normalize (line)
ts.handler_utils.micro_batching
    MicroBatching (parent_handler, micro_batch_size=1, parallelism=None)
    MicroBatching.__call__ (self, data, context)
    MicroBatching.handle (self, data)
    MicroBatching.shutdown (self)
    MicroBatching.get_micro_batch_idx (self)
    MicroBatching.parallelism -
ts.handler_utils.hf_batch_streamer
    TextIteratorStreamerBatch (tokenizer, batch_size, skip_prompt=False, timeout=None,
        **decode_kwargs)
    TextIteratorStreamerBatch.put (self, value)
    TextIteratorStreamerBatch.end (self)
ts.handler_utils.distributed.pt_pippy
    initialize_rpc_workers (local_rank, world_size, ctx)
    get_pipeline_driver (model, world_size, ctx)
ts.handler_utils.distributed.deepspeed
    get_ds_engine (model, ctx)
    create_checkpoints_json (model_path, file)
ts.handler_utils.preprocess.dali
    get_dali_pipeline (ctx)
ts.utils.util
    list_classes_from_module (module, parent_class=None)
    load_label_mapping (mapping_file_path)
    map_class_to_label (probs, mapping=None, lbl_classes=None)
    check_valid_pt2_backend (name)
    PT2Backend -
    CLEANUP_REGEX -
    get_yaml_config (yaml_file_path)
    PredictionException (message, error_code=500)
    deprecated (version, replacement='', klass=PendingDeprecationWarning)
ts.utils.hf_utils
    download_model (model_id, revision='main', model_path='.cache', use_auth_token=True)
ts.utils.timeit_decorator
    timeit (function)
ts.utils.setup_model_venv
    main ()
ts.metrics.dimension
    Dimension (name, value)
    Dimension.to_dict (self)
ts.metrics.metric
    Metric (name, value, unit, dimensions, request_id=None, metric_method=None)
    Metric.update (self, value)
    Metric.reset (self)
    Metric.to_dict (self)
ts.metrics.metric_type_enum
    MetricTypes -
    MetricTypes.COUNTER -
    MetricTypes.GAUGE -
    MetricTypes.HISTOGRAM -
ts.metrics.unit
    Units ()
ts.metrics.metric_abstract
    MetricAbstract (metric_name, unit, dimension_names=None, metric_type=COUNTER)
    MetricAbstract.add_or_update (self, value, dimension_values=(), request_id='')
ts.metrics.caching_metric
    CachingMetric (metric_name, unit, dimension_names=None, metric_type=COUNTER)
    CachingMetric.add_or_update (self, value, dimension_values=(), request_id='')
    CachingMetric.update (self, value, request_id='', dimensions=())
    CachingMetric.emit_metrics (self, request_id, value, dimension_string)
ts.metrics.metric_cache_abstract
    MetricCacheAbstract (config_file_path)
    MetricCacheAbstract.add_metric (self, name, value, unit, idx=None, dimensions=None,
        metric_type=COUNTER)
    MetricCacheAbstract.add_counter (self, name, value, idx=None, dimensions=None)
    MetricCacheAbstract.add_time (self, name, value, idx=None, unit='ms', dimensions=None,
        metric_type=GAUGE)
    MetricCacheAbstract.add_size (self, name, value, idx=None, unit='MB', dimensions=None,
        metric_type=GAUGE)
    MetricCacheAbstract.add_percent (self, name, value, idx=None, dimensions=None,
        metric_type=GAUGE)
    MetricCacheAbstract.add_error (self, name, value, dimensions=None)
    MetricCacheAbstract.add_metric_to_cache (self, metric_name, unit, dimension_names=(),
        metric_type=COUNTER)
    MetricCacheAbstract.get_metric (self, metric_name, metric_type=COUNTER)
    MetricCacheAbstract.set_request_ids (self, request_ids)
    MetricCacheAbstract.initialize_cache (self)
    MetricCacheAbstract.cache_keys (self)
ts.metrics.metric_cache_yaml_impl
    MetricsCacheYamlImpl (config_file_path)
    MetricsCacheYamlImpl._parse_metrics_section (self, key='model_metrics')
ts.metrics.metric_cache_errors
    GeneralMetricsCacheError -
    MetricsCacheIOError -
    MetricsCachePyYamlError -
    MetricsCacheTypeError -
    MetricsCacheValueError -
    MetricsCacheKeyError -
ts.metrics.metrics_store
    MetricsStore (request_ids, model_name)
    MetricsStore.add_metric (self, name, value, unit, idx=None, dimensions=None,
        metric_type=COUNTER)
ts.metrics.metric_encoder
    MetricEncoder -
ts.metrics.metric_collector
    main ()
ts.metrics.process_memory_metric
    get_cpu_usage (pid)
    check_process_mem_usage (stdin)
ts.metrics.system_metrics
    system_metrics -
    dimension -
    cpu_utilization ()
    memory_used ()
    memory_available ()
    memory_utilization ()
    disk_used ()
    disk_utilization ()
    disk_available ()
    collect_gpu_metrics (num_of_gpus)
    collect_all (mod, num_of_gpus=0)
ts.metrics
    dimension -
    metric -
    metric_encoder -
    metrics_store -
    system_metrics -
    unit -
ts.protocol.otf_message_handler
    send_intermediate_predict_response (ret, req_id_map, message, code, context=None)
    create_predict_response (ret, req_id_map, message, code, context=None, ts_stream_next=False)
    create_load_model_response (code, message)
    encode_response_headers (resp_hdr_map)
    retrieve_msg (conn)
    bool_size -
    int_size -
    END_OF_LIST -
    LOAD_MSG -
    PREDICT_MSG -
    RESPONSE -
ts.model_loader
    ModelLoaderFactory.get_model_loader ()
    ModelLoader.load (self, model_name, model_dir, handler=None, gpu_id=None, batch_size=None,
        envelope=None, limit_max_image_pixels=True, metrics_cache=None)
    TsModelLoader.load (self, model_name, model_dir, handler=None, gpu_id=None, batch_size=None,
        envelope=None, limit_max_image_pixels=True, metrics_cache=None)
    TsModelLoader._load_handler_file (self, handler, model_dir=None)
    TsModelLoader._load_default_handler (self, handler, model_dir=None)
    TsModelLoader._load_default_envelope (self, envelope)
    TsModelLoader._get_function_entry_point (self, module, name)
    TsModelLoader._get_class_entry_point (self, module)
ts.service
    Service (model_name, model_dir, manifest, entry_point, gpu, batch_size,
        limit_max_image_pixels=True, metrics_cache=None)
    Service.predict (self, batch)
    Service.retrieve_data_for_inference (batch)
    Service.set_cl_socket (self, sock)
    Service.context -
    PREDICTION_METRIC -
    PredictionException (message, error_code=500)
    emit_metrics (metrics)
ts.async_service
    AsyncService (service)
    AsyncService.run (self)
    predict (self, batch)
ts.model_service_worker
    TorchModelServiceWorker (s_type=None, s_name=None, host_addr=None, port_num=None,
        metrics_config=None, async_comm=False)
    TorchModelServiceWorker.load_model (self, load_model_request)
    TorchModelServiceWorker.handle_connection (self, cl_socket)
    TorchModelServiceWorker.handle_connection_async (self, cl_socket)
    TorchModelServiceWorker.run_server (self)
    MAX_FAILURE_THRESHOLD -
    SOCKET_ACCEPT_TIMEOUT -
    DEBUG -
    BENCHMARK -
    LOCAL_RANK -
    WORLD_SIZE -
    WORLD_RANK -
    LOCAL_WORLD_SIZE -
ts.model_service.model_service
    ModelService (model_name, model_dir, manifest, gpu=None)
    SingleNodeService (model_name, model_dir, manifest, gpu=None)
    SingleNodeService.inference (self, data)
ts.arg_parser
    ArgParser.ts_parser ()
    ArgParser.model_service_worker_args ()
    ArgParser.extract_args (args=None)
ts.model_server
    start ()
    load_properties (file_path)
ts.launcher
    start (model_store=None, snapshot_file=None, no_config_snapshots=False, plugin_folder=None,
        disable_token=False, models=None, enable_model_api=False)
    stop (wait=True)
    register_model (model_name, url)
    register_model_with_params (params)
ts.llm_launcher
    main (args)
ts.version
    __version__ -
ts
    __version__ -
"""


def rows() -> list[tuple[str, str, str]]:
    """Module, the symbol in it, and its parameters."""
    found: list[tuple[str, str, str]] = []
    module = ""
    for line in CALLED.strip().splitlines():
        if line.startswith(8 * " "):
            *before, parameters = found.pop()
            found.append((*before, f"{parameters} {line.strip()}"))
        elif line.startswith(" "):
            symbol, _, parameters = line.strip().partition(" ")
            found.append((module, symbol, parameters))
        else:
            module = line
    return found


def shown(function: Any, count: int) -> tuple[str, list[str]]:
    """Names and defaults, without annotations: of the first ``count`` parameters, and the rest."""
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        text = str(parameter.replace(annotation=parameter.empty))
        if isinstance(default, enum.Enum):
            text = f"{parameter.name}={default.name}"
        elif inspect.isclass(default) and default is not parameter.empty:
            text = f"{parameter.name}={default.__name__}"
        parameters.append(text)
    return f"({', '.join(parameters[:count])})", parameters[count:]


@pytest.mark.parametrize(
    ("module", "symbol", "parameters"),
    [pytest.param(*row, id=f"{row[0]}.{row[1]}") for row in rows()],
)
def test_it_is_there_and_called_the_same_way(module: str, symbol: str, parameters: str) -> None:
    found: Any = importlib.import_module(module)
    for name in symbol.split("."):
        found = inspect.getattr_static(found, name, None) or getattr(found, name)
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    if parameters != "-":
        own, further = shown(found, parameters.count(", ") + 1)
        assert own == parameters
        assert all("=" in parameter for parameter in further)


# Attributes that handlers read and write on these objects, beside what is above.
ATTRIBUTES = {
    "BaseHandler": "model mapping device context model_pt_path manifest map_location initialized "
    "explain target profiler_args",
    "Context": "model_name manifest request_ids model_yaml_config stopping_criteria cl_socket "
    "header_key_sequence_id header_key_sequence_start header_key_sequence_end",
    "MockContext": "manifest system_properties explain metrics model_yaml_config",
    "MicroBatching": "handler micro_batch_size thread_groups queues thread_local_data terminate",
    "MetricsCacheYamlImpl": "cache store request_ids model_name config_file_path _parsed_file",
    "CachingMetric": "metric_name unit dimension_names metric_type",
    "Service": "_entry_point _context",
    "Units": "units",
    "BodyEnvelope": "_handle_fn context",
}


def made() -> dict[str, Any]:
    from ts.context import Context
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.metrics.caching_metric import CachingMetric
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.metrics.unit import Units
    from ts.service import Service
    from ts.torch_handler.base_handler import BaseHandler
    from ts.torch_handler.request_envelope.body import BodyEnvelope
    from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext

    metrics = Path(ts.__file__).parent / "configs" / "metrics.yaml"
    return {
        "BaseHandler": BaseHandler(),
        "Context": Context("m", "/m", None, 1, None, "0"),
        "MockContext": MockContext(),
        "MicroBatching": MicroBatching(None),
        "MetricsCacheYamlImpl": MetricsCacheYamlImpl(str(metrics)),
        "CachingMetric": CachingMetric("n", "ms"),
        "Service": Service("m", "/m", None, None, None, 1),
        "BodyEnvelope": BodyEnvelope(print),
        "Units": Units(),
    }


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_its_attributes_are_there(name: str) -> None:
    missing = [each for each in ATTRIBUTES[name].split() if not hasattr(made()[name], each)]
    assert missing == []


@pytest.mark.parametrize(
    "path", ["version.txt", "configs/metrics.yaml", "configs/sagemaker_config.properties"]
)
def test_the_data_files_are_there(path: str) -> None:
    assert (Path(ts.__file__).parent / path).is_file()
