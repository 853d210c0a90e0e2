"""Short films made by FFmpeg's libraries, for tests that play."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path

import av

FRAMES_PER_S = 25
SOUND_HZ = 48_000
GROUP = 50


def make_clip(path: Path, *, lasts_s: int = 20, codec: str = "libx264") -> Path:
    """Write a film whose pictures change; the name's ending is its container.

    A key frame stands every two seconds, and pictures are reordered, as in real films.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=FRAMES_PER_S)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.gop_size = GROUP
        video.bit_rate = 800_000
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "bf": "2", "sc_threshold": "0"}
        sound = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=SOUND_HZ)
        sound_ends_s = Fraction(0)
        silences = iter(_silences(sound.codec_context.name == "libopus"))
        for number in range(lasts_s * FRAMES_PER_S):
            picture = av.VideoFrame(160, 120, "yuv420p")
            for at, plane in enumerate(picture.planes):
                shade = (number * (3 + at)) % 256
                row = bytes((shade + x * 7) % 256 for x in range(plane.line_size))
                plane.update(b"".join(_turn(row, y * number) for y in range(plane.height)))
            picture.pts, picture.time_base = number, Fraction(1, FRAMES_PER_S)
            container.mux(video.encode(picture))
            # Sound and pictures lie side by side in the file, as in real films.
            while sound_ends_s * FRAMES_PER_S <= number:
                silence = next(silences)
                sound_ends_s = Fraction(silence.pts + silence.samples, SOUND_HZ)
                container.mux(sound.encode(silence))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def _silences(is_opus: bool) -> Iterator[av.AudioFrame]:
    size = 960 if is_opus else 1024
    for number in count():
        frame = av.AudioFrame("s16" if is_opus else "fltp", "stereo", size)
        frame.sample_rate, frame.pts = SOUND_HZ, number * size
        frame.time_base = Fraction(1, SOUND_HZ)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        yield frame


def _turn(row: bytes, by: int) -> bytes:
    by %= len(row)
    return row[by:] + row[:by]
