"""Video by PyAV (the extra ``video``): files, webcams and network cameras to frames, and frames to a file."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from detection.evaluation.visualize import RGBImage

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp")
CAMERAS = ("rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://")
_TIMEOUT = (10.0, 10.0)  # seconds to open a camera, and for its next frame
# containers that hold their frames: a playlist could name any file or address
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif,ivf,h264,hevc"


def is_video(source: str) -> bool:
    """Return whether a source is a video file, by its name, or a network camera."""
    return source.lower().startswith(CAMERAS) or Path(source).suffix.lower() in SUFFIXES


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("video requires PyAV: pip install 'resdet[video]'") from error
    return av


def open_video(source: str) -> Any:
    """Open a video file, a network camera (rtsp://…) or a webcam by its number; return PyAV's container.

    Raises:
        FileNotFoundError, ValueError: no such file or camera, or no video in it.
        ImportError: PyAV is not installed.
    """
    av = _av()
    try:
        if source.lower().startswith(CAMERAS):
            options = {"rtsp_transport": "tcp"} if source.lower().startswith("rtsp") else {}
            container = av.open(source, options=options, timeout=_TIMEOUT)
        elif source.isdecimal():
            container = av.open(f"/dev/video{source}", format="v4l2", timeout=_TIMEOUT)
        else:
            if not Path(source).is_file():
                raise FileNotFoundError(f"no file {source}")
            container = av.open(source, options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except av.FFmpegError as error:
        what = f"webcam {source}" if source.isdecimal() else source
        raise ValueError(f"{what} cannot be opened as video: {error.strerror or error}") from None
    if not container.streams.video:
        container.close()
        raise ValueError(f"{source} has no video stream")
    return container


def read_frames(source: str) -> Iterator[tuple[RGBImage, float, Fraction]]:
    """Yield a video's frames: uint8 RGB [H, W, 3], rotated as the file says, the second, and the frames per second.

    Raises:
        FileNotFoundError, ValueError, ImportError: as :func:`open_video`; ValueError also where decoding fails.
    """
    av = _av()
    with open_video(source) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        index = 0
        try:
            for frame in container.decode(stream):
                pixels = frame.to_ndarray(format="rgb24")
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                if turns:
                    pixels = np.ascontiguousarray(np.rot90(pixels, turns))
                yield pixels, float(frame.time if frame.time is not None else index / rate), rate
                index += 1
        except av.FFmpegError as error:
            raise ValueError(f"{source}: frame {index} cannot be decoded: {error.strerror or error}") from None


def frame_count(source: str) -> int | None:
    """Return how many frames a video file says that it has; None for cameras, and where it does not say."""
    if source.isdecimal() or source.lower().startswith(CAMERAS):
        return None
    with open_video(source) as container:
        stream = container.streams.video[0]
        if stream.frames:
            return int(stream.frames)
        if stream.duration is None or not stream.average_rate:
            return None
        return max(int(stream.duration * stream.time_base * stream.average_rate), 1)


class VideoWriter:
    """Writes frames as H.264, or MPEG-4 where this build of FFmpeg has no encoder for it; a context manager.

    Args:
        path: FILE.mp4, which must not exist.
        rate: frames per second.

    Frames of another size than the first are refused. Sides are cut to even numbers, which the codec wants.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        av = _av()
        self.path, self.container = path, av.open(str(path), "w", format="mp4")
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.stream = self.container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
        self.stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            self.stream.bit_rate = 8_000_000
        self.size: tuple[int, int] | None = None

    def write(self, image: RGBImage) -> None:
        """Add a frame, uint8 RGB [H, W, 3]."""
        height, width = (side // 2 * 2 for side in image.shape[:2])
        if self.size is None:
            self.size = height, width
            self.stream.height, self.stream.width = height, width
        elif self.size != (height, width):
            raise ValueError(f"{self.path} has frames of {self.size[0]}x{self.size[1]}, got one of {height}x{width}")
        frame = _av().VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        for packet in self.stream.encode(frame):
            self.container.mux(packet)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self.size is not None:
            for packet in self.stream.encode():
                self.container.mux(packet)
        self.container.close()
