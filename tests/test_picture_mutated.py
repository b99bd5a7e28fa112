"""Files that were damaged at random: none may hang or crash the process that opens it, or take much memory."""

import random
import signal

import pytest
from picture_child import Decoder
from picture_kinds import SCENE, SECOND, data, upto

MEMORY = 1_000_000_000
"""What the process may hold, in bytes."""
LIMIT = 20.0
"""What a file may take, in seconds; each takes milliseconds on a free core."""

SEEDS = {
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "animated png": ("PNG", {"save_all": True, "append_images": [SECOND]}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "jpeg in tiff": ("TIFF", {"compression": "jpeg"}),
    "gif": ("GIF", {"save_all": True, "append_images": [SECOND]}),
    "heic": ("HEIF", {}),
    "avif": ("AVIF", {}),
}


def seeds():
    return {name: data(SCENE, format, **options) for name, (format, options) in SEEDS.items() if upto(format)}


def mutated(seeds, number):
    """The name and bytes of mutation `number`: flipped bits, a cut, or a splice; half of the places lie in the first 300 bytes."""
    rng = random.Random(number)
    name = sorted(seeds)[number % len(seeds)]
    whole = bytearray(seeds[name])

    def place():
        return rng.randrange(min(300, len(whole)) if rng.random() < 0.5 else len(whole))

    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        kind = rng.choice(["flip", "flip", "byte", "cut", "splice", "double", "lose"])
        at = place()
        if kind == "flip":
            whole[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            whole[at] = rng.choice([0, 0x7F, 0x80, 0xFF])
        elif kind == "cut" and at > 20:
            del whole[at:]
        elif kind == "splice":
            other = seeds[rng.choice(sorted(seeds))]
            start = rng.randrange(len(other))
            piece = other[start : start + rng.choice([4, 40, 4000])]
            whole[at : at + len(piece)] = piece
        elif kind == "double":
            whole[at:at] = whole[at : at + rng.choice([1, 16, 1000])]
        elif kind == "lose" and len(whole) > 40:
            del whole[at : at + rng.choice([1, 2, 16])]
    return name, bytes(whole)


def outcomes(folder, numbers):
    """What became of each mutation, counted by seed and outcome; a file that the child did not survive is an error that names it."""
    made, counts = seeds(), {}
    path = folder / "photo"
    with Decoder(LIMIT) as decoder:
        for number in numbers:
            name, content = mutated(made, number)
            path.write_bytes(content)
            for side in (None, 64):
                found = decoder(path, side)
                assert "died" not in found, f"mutation {number} of the {name}: {found}"
                outcome = found.get("reason", "accepted")
                assert outcome != "unreadable", f"mutation {number} of the {name}"
                counts[name, outcome] = counts.get((name, outcome), 0) + 1
        peak = decoder.peak
    assert peak < MEMORY
    return counts, peak


def test_a_mutation_depends_on_its_number_only():
    made = seeds()
    assert [mutated(made, k) for k in range(30)] == [mutated(made, k) for k in range(30)]
    assert len({mutated(made, k)[1] for k in range(500)}) > 490


def test_the_child_names_a_file_that_takes_too_long(tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(seeds()["png"])
    with Decoder() as decoder:
        assert decoder(path)["size"] == list(SCENE.size)
        decoder.limit = 0.1
        decoder.child.send_signal(signal.SIGSTOP)  # it never answers, however fast it is
        assert "more than" in decoder(path)["died"]
        decoder.limit = LIMIT
        assert decoder(path)["size"] == list(SCENE.size)  # and a new child goes on


def test_mutated_files_give_a_picture_or_one_reason(tmp_path):
    counts, _ = outcomes(tmp_path, range(100))
    assert len({name for name, _ in counts}) == len(seeds())
    assert sum(count for (_, outcome), count in counts.items() if outcome == "damaged") > 20


@pytest.mark.soak
def test_five_hundred_mutated_files_give_a_picture_or_one_reason(tmp_path, capsys):
    counts, peak = outcomes(tmp_path, range(100, 600))
    assert sum(counts.values()) == 1000
    with capsys.disabled():
        reasons = sorted({outcome for _, outcome in counts})
        totals = {reason: sum(count for (_, outcome), count in counts.items() if outcome == reason) for reason in reasons}
        print(f"\n500 mutated files, each decoded whole and reduced: {totals}; at most {peak / 1e6:.0f} MB")  # noqa: T201
