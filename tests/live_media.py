"""Small real pictures for live tests: made with PyAV, the same each time."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def make_media(path: Path, *, seconds: int, rate: int = 10, key_every: int = 10) -> Path:
    """A moving picture with sound, one key frame every `key_every` pictures.

    The container follows from the path's suffix.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.options = {"preset": "ultrafast", "x264-params": f"keyint={key_every}:scenecut=0"}
        video.bit_rate = 200_000
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        tone = np.zeros((1, 1024), dtype=np.float32)
        sent = 0
        for number in range(seconds * rate):
            picture = np.full((120, 160, 3), (number * 7) % 256, dtype=np.uint8)
            picture[:, (number * 5) % 160] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(video.encode(frame))
            while sent < (number + 1) * 16_000 // rate:
                sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = 16_000, sent, Fraction(1, 16_000)
                container.mux(audio.encode(sound))
                sent += 1024
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path
