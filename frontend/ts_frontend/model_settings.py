"""The `models` key: settings that wait for a model to be registered. Read by `keys`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from ts_frontend.lenient_json import Number, gson_int
from ts_frontend.values import BadValue, FallBack, batch_policy, json_object, lenient_json

ModelSettings = Mapping[str, Mapping[str, Mapping[str, int | str | bool]]]

_NUMBERS = (
    "minWorkers",
    "maxWorkers",
    "batchSize",
    "maxBatchDelay",
    "maxLatencyMs",
    "responseTimeout",
    "startupTimeout",
    "parallelLevel",
)
_KINDS: Mapping[str, type] = {
    **dict.fromkeys(_NUMBERS, int),
    "runtimeType": str,
    "batchPolicy": str,
    "marName": str,
    "defaultVersion": bool,
}


def model_settings(raw: str) -> ModelSettings:
    """Read ``{model: {version: {setting: value}}}``; versions are texts, quoted or not.

    Malformed JSON aborts, as in TorchServe. A setting that is unknown, of the wrong kind or not
    positive falls back to its default there without a word, and here with a warning.
    """
    if not raw.strip():
        return {}
    problems: list[str] = []
    models = {
        model: {
            version: _settings(found, f"{model} {version}", problems)
            for version, found in json_object(versions, f"the versions of {model}").items()
        }
        for model, versions in json_object(lenient_json(raw), "the models").items()
    }
    if problems:
        raise FallBack(models, "; ".join(problems))
    return models


def _settings(found: object, where: str, problems: list[str]) -> dict[str, int | str | bool]:
    settings: dict[str, int | str | bool] = {}
    for key, value in json_object(found, f"the settings of {where}").items():
        if isinstance(value, Number):
            number = gson_int(value)
            value = value if number is None else number
        problem = _problem(key, value)
        if problem:
            problems.append(f"{where}: {problem}: the setting is dropped")
        else:
            settings[key] = value
    return settings


def _problem(key: str, value: object) -> str:
    kind = _KINDS.get(key)
    if kind is None:
        close = get_close_matches(key, _KINDS, 1)
        return f"unknown setting {key}" + (f", did you mean {close[0]}?" if close else "")
    # bool is an int to isinstance.
    if type(value) is not kind:
        return f"{key}={value!r} is not {'a whole number' if kind is int else f'a {kind.__name__}'}"
    if key in _NUMBERS and isinstance(value, int) and value <= 0:
        return f"{key}={value} is not positive"
    if key == "batchPolicy":
        try:
            batch_policy(str(value))
        except BadValue as error:
            return f"{key}={value!r}: {error}"
    return ""
