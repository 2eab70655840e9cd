"""Where somebody speaks: the TorchScript model of silero-vad on WAV files."""

from __future__ import annotations

import io
import wave
from typing import Any

import torch
from silero_vad import get_speech_timestamps

from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

RATE = 16_000


class VoiceActivity(BaseHandler):
    """Answers a WAV file with ``[{"start": seconds, "end": seconds}, ...]``.

    `BaseHandler` loads the ``.pt`` file; only the three steps are of this example.
    """

    def preprocess(self, data: list[dict[str, Any]]) -> list[torch.Tensor]:
        """The sound of each request, one number from -1 to 1 per sample.

        Raises:
            PredictionException: 400 for what is no WAV file of 16 kHz, 16 bits and one channel.
        """
        sounds = []
        for index, row in enumerate(data):
            try:
                sounds.append(_samples(row.get("data") or row.get("body") or b""))
            except (wave.Error, EOFError, ValueError) as error:
                cause = str(error) or "The file ends early"
                text = f"{cause}. Send a WAV file with 16 kHz, 16 bits and one channel."
                raise PredictionException(text, 400, request_index=index) from error
        return sounds

    def inference(self, data: list[torch.Tensor], *args: Any, **kwargs: Any) -> list[Any]:
        # One after another: the model carries its state from one window of a sound to the next. The
        # windows are so small that silero_vad keeps torch to one thread when it is imported.
        return [
            get_speech_timestamps(
                sound.to(self.device), self.model, sampling_rate=RATE, return_seconds=True
            )
            for sound in data
        ]

    def postprocess(self, data: list[Any]) -> list[Any]:
        return data


def _samples(content: bytes) -> torch.Tensor:
    with wave.open(io.BytesIO(content)) as file:
        found = (file.getframerate(), file.getsampwidth(), file.getnchannels())
        if found != (RATE, 2, 1):
            raise ValueError("{} Hz, {} bytes, {} channels".format(*found))
        frames = bytearray(file.readframes(file.getnframes()))
    return torch.frombuffer(frames, dtype=torch.int16).float() / 2**15
