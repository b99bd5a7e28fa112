"""A small finished run on disk, as `fedstyle simulate` leaves it, for tests of what reads one."""

import json
import math

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

LAYERS = ["down1", "blocks.0.first", "blocks.10.first", "up1"]
SHAPES = {f"{layer}.{part}": shape for layer in LAYERS for part, shape in [("conv.weight", (4, 3, 3, 3)), ("norm.bias", (4,))]}
SENT = {name: 2 * math.prod(shape) for name, shape in SHAPES.items() if ".conv" in name}
STYLES = ["mosaic", "waves", "brush strokes", "halftone", "embers", "contours", "stained glass", "weave"]


def picture(path, hue, size=(96, 64)):
    """A smooth picture of its own colours."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    pixels = np.stack([np.sin(6 * x + hue), np.sin(5 * y + 2 * hue), np.sin(4 * (x + y) + 3 * hue)], -1) / 2 + 0.5
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * pixels).astype(np.uint8)).save(path, quality=90)


def lines(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def client(folder, k, rounds, iterations=24):
    """A client's home, and its line in the summary."""
    name, home = f"{k:03d}", folder / "clients" / f"{k:03d}"
    for j, kind in enumerate(["style", "photo", "base", "filter"]):
        picture(home / "pictures" / f"{kind}.jpg", k + j / 3, (64, 96) if k % 2 else (96, 64))
    decay = [{"content": 0.2, "style": 0.8 + math.exp(-i / 8), "total": 1 + math.exp(-i / 8)} for i in range(1, iterations + 1)]
    lines(home / "personal.jsonl", [{"iteration": i, "iterations": iterations, **loss} for i, loss in enumerate(decay, 1)])
    lines(
        home / "losses.jsonl",
        [{"round": r, "iteration": i, "iterations": 2, "total": 3 / r + k / 10 + 1 / i} for r in range(1, rounds + 1) for i in (1, 2)],
    )
    lines(home / "ledger.jsonl", [{"round": r, "kind": "update", "arrays": SENT, "bytes": 1000 + k} for r in range(1, rounds + 1)])
    (home / "filter").mkdir()
    save_file({key: torch.zeros(shape) for key, shape in SHAPES.items()}, home / "filter" / "filter.safetensors")
    style = STYLES[k % len(STYLES)]
    package = home / f"{style}.mlpackage" / "Data"
    package.mkdir(parents=True)
    (package / "weights.bin").write_bytes(bytes(883_000))
    figures = {"max": 1.2, "p9999": 0.9, "mean": 0.04, "psnr": 68.1, "peak": 88.0, "constants": 62, "precision": "fp16"}
    return {
        "id": name,
        "style": style,
        "strength": 5,
        "density": 256,
        "photos": 2,
        "heldout": 2,
        "heldout_kind": "unseen photos",
        "losses": {
            "before": {"content": 0.45, "style": 1.75, "total": 2.2},
            "rounds": {"content": 0.43, "style": 1.45, "total": 1.88},
            "after": {"content": 0.4, "style": 0.7 + k / 10, "total": 1.1 + k / 10},
        },
        "improvement": 1 - (1.1 + k / 10) / 2.2,
        "filter": f"clients/{name}/filter",
        "package": f"clients/{name}/{style}.mlpackage",
        "parity": {"faithful": True, **figures, "seconds": 1.0, "problems": []},
        "error": None,
    }


def write_run(folder, clients=3, rounds=2, change=lambda summary: None):
    """Write the run's folder; `change` may alter the summary before it is written."""
    names = [f"{k:03d}" for k in range(clients)]
    summary = {
        "format": "fedstyle-run-1",
        "rounds": rounds,
        "engine": "inline",
        "strategy": "FedAvg",
        "method": "fedbn",
        "arch": "cnnLite",
        "features": "tiny",
        "seconds": 252.4,
        "bytes_up": 839_700 * clients * rounds,
        "bytes_down": 1_715_000 * clients * rounds,
        "base_sha256": "ab" * 32,
        "photos_skipped": {"truncated": 1},
        "versions": {"fedstyle": "0.1.0", "torch": "2.14.1"},
        "timings": {"federation": 180.0, "personalization": 60.2, "export": 12.2},
        "clients": [client(folder, k, rounds) for k in range(clients)],
    }
    change(summary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.toml").write_text('[data]\nphotos = "/home/eva/My Photos/summer"\nclients = 3\n\n[privacy]\nclip = 0.0\n')
    lines(
        folder / "history.jsonl",
        [
            {
                "round": r,
                "sampled": clients,
                "replied": clients,
                "cohort": names,
                "failures": {},
                "bytes_up": 839_700 * clients,
                "bytes_down": 1_715_000 * clients,
                "seconds": 20.5,
                "base_sha256": "ab" * 32,
                "loss": {"content": 0.5, "style": 3 / r, "total": 0.5 + 3 / r},
            }
            for r in range(1, rounds + 1)
        ],
    )
    return folder
