import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from picture_child import Decoder
from picture_kinds import KINDS, PLACES, Good, largest, needs

from fedstyle.photos import Photos
from fedstyle.picture import REASONS

MEMORY = 1_000_000_000
"""What a process that decodes may hold, in bytes."""


@pytest.fixture(scope="module")
def library():
    """A folder with a file of every kind that can be made here; a child with no more rights than its own can look into it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    for name, (make, _) in KINDS.items():
        if not needs(name):
            make(folder / name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def decoder():
    with Decoder(nobody=os.geteuid() == 0) as child:
        yield child


def test_there_are_kinds_enough():
    assert len(KINDS) >= 60
    assert {expected for _, expected in KINDS.values() if isinstance(expected, str)} == set(REASONS)


@pytest.mark.parametrize("name", KINDS, ids=lambda name: ascii(name[:60]))
def test_every_kind_of_file_is_accepted_with_its_pixels_or_skipped_with_its_reason(library, decoder, name):
    if lacking := needs(name):
        pytest.skip(f"this installation has no decoder for {lacking}")
    expected = KINDS[name][1]
    found = decoder(library / name, probes=PLACES if isinstance(expected, Good) and expected.size == (96, 80) else ())
    if isinstance(expected, str):
        assert found.get("reason") == expected, found
        assert found["looked"] in ("", expected)
    else:
        assert found.get("mode") == "RGB", found
        assert found["looked"] == ""
        assert tuple(found["size"]) == expected.size
        assert not found["pixels"] or np.abs(np.subtract(found["pixels"], expected.colours)).max() <= expected.near, found["pixels"]
    assert decoder.peak < MEMORY


def test_a_library_of_every_kind_is_opened_and_every_skipped_file_is_counted(library):
    photos = Photos.open(library)
    made = {name: expected for name, (_, expected) in KINDS.items() if not needs(name)}
    if os.geteuid() == 0:
        made["file of another user"] = made["png"]  # root may read it
    made.pop("no file")
    made.pop("folder")  # an empty one, which holds no candidate
    checked = photos.checked()
    good = sum(isinstance(expected, Good) for expected in made.values())
    bad = Counter(expected for expected in made.values() if isinstance(expected, str))
    copies = checked.skipped.pop("duplicate")
    assert checked.skipped == dict(bad) | {"duplicate": copies}
    assert len(checked) + copies == good
    assert sum(row.count for row in checked.report()) == bad.total() + copies


@pytest.mark.soak
@pytest.mark.parametrize("name", largest())
def test_the_largest_pictures_stay_within_memory(tmp_path, name, capsys):
    path = tmp_path / "photo"
    path.write_bytes(largest()[name]())
    with Decoder(limit=300.0) as decoder:
        found = decoder(path)
        assert sorted(found["size"]) == [6240, 8000], found
        assert decoder.peak < MEMORY
        with capsys.disabled():
            print(f"\n50 megapixels, {name}: {decoder.peak / 1e6:.0f} MB")  # noqa: T201
