"""A short clip stylised frame by frame, with the extra `video` (PyAV, which carries FFmpeg).

Every frame is stylised on its own: what a stroke does from one frame to the next is not controlled, so textures flicker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fedstyle.errors import ConfigError, OutputError, PhotoError
from fedstyle.filter import MEMORY, SIDE, Filter
from fedstyle.picture import UnusableError, regular, show

VIDEOS = {".mp4": "mp4", ".mov": "mov"}
"""Suffixes of what is written, and FFmpeg's names of their formats."""
READ = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"
"""FFmpeg's names of the formats that are read."""
SOUNDS = ("aac", "mp3", "mp3float", "alac", "ac3", "eac3", "opus")
"""Sound that both formats hold as it is, by FFmpeg's names of the decoders."""
ENCODING = {"crf": "18", "rc-lookahead": "10"}
"""x264's quality, hardly told from the frames by eye, and the frames that it looks ahead and so keeps in memory."""

_QUARTERS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class StylizedVideo:
    """A stylised clip: its file, its number of frames, their size upright, whether it has sound, and the seconds that it took."""

    path: Path
    frames: int
    size: tuple[int, int]
    audio: bool
    seconds: float


def stylize_video(
    filter: Filter,
    video: Path | str,
    out: Path | str,
    *,
    side: int | None = SIDE,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> StylizedVideo:
    """Stylise a video into a new file, .mp4 or .mov (H.264), in its size, upright, each frame at its time, with the first sound track.

    Nothing else is copied: no metadata, place, time, subtitle or data track. Sound is copied as it is where the new file can hold it, and
    left out where not. A few frames are held at a time, so memory does not grow with length; `side` and `memory` are those of a Filter's
    call, for each frame, beside what decoding and encoding take. `progress` is called with the frames done and, as far as the file says,
    their number, else 0. Textures flicker: see above. Raises ConfigError without the extra or for another suffix, OutputError when `out`
    exists or cannot be written, and PhotoError for what is no video; then nothing stands at `out`.
    """
    av = _av()
    source, target = Path(video), Path(out)
    if target.suffix.lower() not in VIDEOS:
        raise ConfigError(f"{show(target)}: a video is written as {' or '.join(VIDEOS)}")
    if os.path.lexists(target):
        raise OutputError(f"{show(target)} exists already: choose another place, or remove it first")
    start = time.perf_counter()
    try:
        with regular(source):  # pipes and devices, which would hang, are refused
            pass
        size = _size(av, source)
        with _beside(target) as part:
            with _opened(av, source) as given, av.open(os.fspath(part), "w", format=VIDEOS[target.suffix.lower()]) as made:
                picture, sounds = _tracks(given, made, size)
                frames = 0
                for packet in given.demux([given.streams.video[0], *sounds]):
                    if packet.stream in sounds:
                        if packet.dts is not None:
                            packet.stream = sounds[packet.stream]
                            made.mux(packet)
                        continue
                    for frame in packet.decode():
                        image = filter(_upright(frame), side=side, memory=memory)
                        encoded = av.VideoFrame.from_image(image if image.size == size else image.resize(size))
                        encoded.pts, encoded.time_base = frame.pts, frame.time_base
                        made.mux(picture.encode(encoded))
                        frames += 1
                        if progress:
                            progress(frames, given.streams.video[0].frames)
                made.mux(picture.encode(None))
            os.chmod(part, 0o644)
            os.replace(part, target)
    except UnusableError as why:
        raise PhotoError(f"{show(source)} {why.found}") from why.__cause__
    except av.error.FFmpegError as why:
        if why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES):
            raise OutputError(f"cannot write {show(target)}: {why.strerror}: choose another place, or free some disk space") from why
        raise PhotoError(f"{show(source)} cannot be decoded as a video ({why.strerror}): choose another, or convert it to MP4") from why
    return StylizedVideo(target, frames, size, bool(sounds), time.perf_counter() - start)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("videos need the extra that reads them: pip install 'fedstyle[video]'") from None
    return av


def _opened(av: Any, source: Path) -> Any:
    """Open a video; nothing that would lead FFmpeg on to other files or to a network, such as a playlist."""
    return av.open(os.fspath(source), options={"format_whitelist": READ, "protocol_whitelist": "file"})


def _size(av: Any, source: Path) -> tuple[int, int]:
    """The size of the first frame, upright."""
    with _opened(av, source) as given:
        if given.streams.video:
            for frame in given.decode(given.streams.video[0]):
                size: tuple[int, int] = _upright(frame).size
                return size
    raise UnusableError("damaged", "holds no frame that can be decoded: choose another video")


def _upright(frame: Any) -> Image.Image:
    """A frame as RGB, turned as the file says; the angle counts against the clock, as Pillow's do."""
    image: Image.Image = frame.to_image()
    turn = _QUARTERS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


def _tracks(given: Any, made: Any, size: tuple[int, int]) -> tuple[Any, dict[Any, Any]]:
    """The new file's video track, in the given one's time, and the first sound track's successor, if it can be copied."""
    track = given.streams.video[0]
    picture = made.add_stream("libx264", rate=track.average_rate or track.guessed_rate or 30, options=ENCODING)
    picture.width, picture.height = size
    picture.pix_fmt = "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"  # colours at half the size need even sides
    picture.codec_context.time_base = track.time_base
    sounds = [sound for sound in given.streams.audio if sound.codec_context.name in SOUNDS][:1]
    return picture, {sound: made.add_stream_from_template(sound) for sound in sounds}


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new file in the folder of `target`; it is gone afterwards unless it was renamed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as why:
        raise OutputError(f"cannot write {show(target)}: {why.strerror or why}: choose a folder that you may write to") from why
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
