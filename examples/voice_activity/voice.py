"""A voice made of nothing: vowels, spoken by a source and three resonances.

`archive.py` calls it, so that the example needs no recording of anybody.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

RATE = 16_000
# The first three formants of each vowel, in Hz.
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
}
BANDWIDTHS = (80, 90, 120)


def write(path: Path, vowels: str = "aeioaeio") -> None:
    """A WAV file: a second of silence, the vowels in a quarter of a second each, silence again."""
    silence = np.zeros(RATE)
    sound = np.concatenate([silence, *(_spoken(vowel) for vowel in vowels), silence])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 2**14).astype("<i2").tobytes())


def _spoken(vowel: str, seconds: float = 0.25) -> np.ndarray:
    """Pulses as of a larynx at 100 to 130 Hz, through one filter for each formant."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 115 + 15 * np.sin(2 * np.pi * 3 * time)
    sound = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    for formant, bandwidth in zip(VOWELS[vowel], BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / RATE)
        angle = 2 * np.pi * formant / RATE
        sound = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], sound)
    fade = np.minimum(1, np.minimum(time, seconds - time) / 0.05)
    voiced: np.ndarray = fade * sound / np.abs(sound).max()
    return voiced
