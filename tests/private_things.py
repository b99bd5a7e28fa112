"""Private things that are planted in photos and style images, and the search for any trace of them in what leaves a device."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

WORDS = ("Anna-in-Rimini", "Piazza-Cavour-12", "for-Grandmas-90th", "udine-at-dusk", "Halvorsen")
"""Parts of the planted paths, EXIF texts and names of style images."""
PLACE = (46.0, 3.0, 57.21)
"""Degrees, minutes and seconds, north and east, of the planted GPS position."""
GRAM = 16
"""Bytes in a row that count as a trace of a file or of its pixels."""


@dataclass
class Secrets:
    """What must be found nowhere: words, and every run of GRAM bytes of the files, of their pixels, and of what training makes of those."""

    words: set[bytes] = field(default_factory=set)
    grams: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def add(self, *parts: bytes) -> None:
        """Add the runs of bytes; those of few different bytes, such as zeros, are no one's secret."""
        for part in parts:
            rows = _rows(part)
            rich = (np.diff(np.sort(rows, axis=1), axis=1) != 0).sum(1) >= 7
            self.grams = np.union1d(self.grams, _mix(rows[rich]))

    def find(self, blob: bytes) -> list[str]:
        """The words in the bytes, also in UTF-16, and whether a run of a file's or of pixels' bytes is there."""
        low = blob.lower()
        found = sorted(word.decode() for word in self.words if word.lower() in low or word.decode().lower().encode("utf-16-le") in low)
        if len(blob) >= GRAM and len(self.grams):
            keys = _mix(_rows(blob))
            places = np.searchsorted(self.grams, keys).clip(max=len(self.grams) - 1)
            found += ["bytes of a file or of pixels"] * bool((self.grams[places] == keys).any())
        return found

    def search(self, folder: Path, *, names: bool = True) -> dict[str, list[str]]:
        """What was found in each file below a folder, and in its name."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        found = {str(path): self.find(path.read_bytes() + (str(path.relative_to(folder)).encode() if names else b"")) for path in files}
        return {name: what for name, what in found.items() if what}


def plant(folder: Path, *, photos: int = 3, styles: int = 2) -> Secrets:
    """Fill folder/photos and folder/styles with pictures full of private things, one broken photo among them, and tell what they are."""
    secrets = Secrets({word.encode() for word in WORDS} | {str(folder).encode()})
    rng = np.random.default_rng(11)
    places = [folder / "photos" / f"{WORDS[0]} {index}.{'png' if index % 2 else 'jpg'}" for index in range(photos)]
    places += [folder / "styles" / f"{WORDS[3]} {index}.png" for index in range(styles)]
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (72, 64, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[Base.ImageDescription], exif[Base.Artist] = WORDS[2], WORDS[4]
        exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: PLACE, 3: "E", 4: PLACE, 28: WORDS[1].encode()})
        image.save(path, exif=exif, quality=95)
        with Image.open(path) as written:
            pixels = np.asarray(written.convert("RGB"))
        secrets.add(path.read_bytes(), pixels.tobytes(), (pixels.transpose(2, 0, 1) / np.float32(255)).astype(np.float32).tobytes())
    (folder / "photos" / f"{WORDS[0]} broken.jpg").write_bytes(WORDS[1].encode() * 40)
    return secrets


def _rows(data: bytes) -> np.ndarray:
    """Every run of GRAM bytes."""
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), GRAM))


def _mix(rows: np.ndarray) -> np.ndarray:
    """Runs as one whole number each: two odd multipliers keep different ones apart but for a chance of about 2^-64."""
    halves = rows.view(np.uint64)
    return halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)


def tap(database: Path) -> None:
    """Let a SuperLink's state keep a copy of every value that is ever written to any of its tables: see `tapped`."""
    with closing(sqlite3.connect(database, timeout=60)) as link, link:
        tables = [name for (name,) in link.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        link.execute("CREATE TABLE tap (place TEXT, value BLOB)")
        for table in tables:
            columns = [row[1] for row in link.execute(f"PRAGMA table_info('{table}')")]
            copy = "INSERT INTO tap SELECT '{0}.{1}', NEW.{1} WHERE NEW.{1} IS NOT NULL AND NEW.{1} != '';"
            copies = "".join(copy.format(table, one) for one in columns)
            for event in ("INSERT", "UPDATE"):
                link.execute(f"CREATE TRIGGER tap_{event}_{table} AFTER {event} ON '{table}' BEGIN {copies} END")


def tapped(database: Path, place: str = "%") -> list[bytes]:
    """The values, each once; those of a table's column by the name `table.column`."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as link:
        rows = link.execute("SELECT DISTINCT value FROM tap WHERE place LIKE ?", (place,))
        return [value if isinstance(value, bytes) else str(value).encode() for (value,) in rows]
