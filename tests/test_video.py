"""A clip becomes a clip: frames, times, orientation and sound kept, nothing else."""

import builtins
import re
from fractions import Fraction

import numpy as np
import pytest
from conftest import picture
from PIL import Image

import fedstyle
from fedstyle.errors import ConfigError, OutputError, PhotoError
from fedstyle.filter import Filter

av = pytest.importorskip("av", reason="the extra `video` is not installed")
SECRETS = (b"private words", b"+48.8577", b"Ada", b"2024-05-06")


class Untouched:
    """A filter that leaves frames as they are, and knows how many there were."""

    def __init__(self):
        self.frames = []

    def __call__(self, image, *, side, memory):
        self.frames.append((image.size, side, memory))
        return image


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Six frames of 64 x 48 at 24 a second one of them twice as long, lying on their side, with sound and private words."""
    path = tmp_path_factory.mktemp("clip") / "clip.mov"
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as made:
        track = made.add_stream("libx264", rate=24, options={"crf": "1"})
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.time_base = Fraction(1, 24)
        track.set_display_rotation(-90)  # as a phone held upright writes it: turn it by a quarter with the clock
        sound = made.add_stream("aac", rate=44100)
        made.metadata.update(comment="private words", title="Ada", creation_time="2024-05-06T07:08:09Z")
        made.metadata["com.apple.quicktime.location.ISO6709"] = "+48.8577+002.2950/"
        track.metadata["title"] = sound.metadata["title"] = "Ada"
        for place, time in enumerate((0, 1, 2, 4, 5, 6)):
            shown = Image.new("RGB", (64, 48), (40 * place, 100, 60))
            shown.paste((250, 250, 250), (0, 0, 32, 24))  # a mark in the corner that is the upper right one when it is turned
            frame = av.VideoFrame.from_image(shown)
            frame.pts, frame.time_base = time, Fraction(1, 24)
            made.mux(track.encode(frame))
        made.mux(track.encode(None))
        for place in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * place
            made.mux(sound.encode(frame))
        made.mux(sound.encode(None))
    raw = path.read_bytes()
    assert all(secret in raw for secret in SECRETS[:3])
    return path


def test_frames_times_orientation_and_sound_are_kept(clip, tmp_path):
    same, told = Untouched(), []
    done = fedstyle.stylize_video(same, clip, tmp_path / "made" / "new.mp4", side=40, progress=lambda *now: told.append(now))
    assert (done.frames, done.size, done.audio) == (6, (48, 64), True)
    assert done.seconds > 0
    assert same.frames[1:] == [((48, 64), 40, 1000)] * 5
    assert told == [(place, 6) for place in range(1, 7)]
    with av.open(str(done.path)) as made:
        frames = list(made.decode(video=0))
        assert [float(frame.pts * frame.time_base) for frame in frames] == pytest.approx([time / 24 for time in (0, 1, 2, 4, 5, 6)])
        assert {frame.rotation for frame in frames} == {0}
    for place, frame in enumerate(frames):
        shown = np.asarray(frame.to_image()).astype(int)
        assert np.abs(shown[4:20, 28:44] - 250).max() < 12  # the mark: upper right
        assert np.abs(shown[40:60, 4:20] - (40 * place, 100, 60)).max() < 12
    with av.open(str(done.path)) as made, av.open(str(clip)) as given:
        packets = [[bytes(packet) for packet in one.demux(audio=0) if packet.size] for one in (made, given)]
        assert packets[0] == packets[1]
        assert len(packets[0]) >= 10
        assert len(made.streams) == 2


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_nothing_of_the_metadata_is_in_the_result(clip, tmp_path, suffix):
    done = fedstyle.stylize_video(Untouched(), clip, tmp_path / f"new{suffix}")
    raw = done.path.read_bytes()
    assert not [secret for secret in SECRETS if secret in raw]
    assert [path.name for path in tmp_path.iterdir()] == [f"new{suffix}"]


def test_a_clip_of_odd_size_without_sound_through_a_filter(tmp_path, base):
    with av.open(str(tmp_path / "a.mkv"), "w") as made:
        track = made.add_stream("libx264", rate=10, options={"crf": "1"})
        track.width, track.height, track.pix_fmt = 75, 65, "yuv444p"
        for place in range(2):
            made.mux(track.encode(av.VideoFrame.from_image(picture(place, (75, 65)))))
        made.mux(track.encode(None))
    filter = Filter(base.arch, base.padding, base.weights)
    done = fedstyle.stylize_video(filter, tmp_path / "a.mkv", tmp_path / "b.mp4")
    assert (done.frames, done.size, done.audio) == (2, (75, 65), False)
    with av.open(str(tmp_path / "a.mkv")) as given, av.open(str(tmp_path / "b.mp4")) as made:
        for before, after in zip(given.decode(video=0), made.decode(video=0), strict=True):
            wanted = np.asarray(filter(before.to_image())).astype(int)
            assert np.abs(np.asarray(after.to_image()).astype(int) - wanted).mean() < 4  # what H.264 loses


def test_what_is_no_video_is_one_line_and_leaves_nothing(clip, tmp_path):
    (tmp_path / "words.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{clip}\n")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:500])
    before = sorted(tmp_path.iterdir())
    for name in ("words.mp4", "list.mp4", "cut.mp4", "nowhere.mp4"):
        with pytest.raises(PhotoError, match=re.escape(name)) as error:
            fedstyle.stylize_video(Untouched(), tmp_path / name, tmp_path / "new.mp4")
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"new.gif: a video is written as .mp4 or .mov"):
        fedstyle.stylize_video(Untouched(), clip, tmp_path / "new.gif")
    with pytest.raises(OutputError, match="exists already"):
        fedstyle.stylize_video(Untouched(), clip, tmp_path / "cut.mp4")

    def broken(image, **_):
        raise PhotoError("no room")

    with pytest.raises(PhotoError, match="no room"):
        fedstyle.stylize_video(broken, clip, tmp_path / "new.mp4")
    assert sorted(tmp_path.iterdir()) == before


def test_without_the_extra_the_error_names_it(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'fedstyle\[video\]'"):
        fedstyle.stylize_video(Untouched(), tmp_path / "a.mp4", tmp_path / "b.mp4")
