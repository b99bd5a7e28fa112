"""Painters with a brush, a pen or a crayon: stroke after stroke on a sheet."""

from __future__ import annotations

import numpy as np

from fedstyle.paint.canvas import UNITS, Array, Sheet, blend, ease, lit, noise, plane, ramp, sample, scene, streams


def waves(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Breaking waves of a colour woodblock print: rows of curling crests, nested bands of water, claws of foam."""
    paper, foam, *water, dark = palette
    _, y = plane(side)
    sky = blend(paper, water[0], ease(60, -200, y + 25 * noise(rng, side, 120)) * 0.7)
    sheet = Sheet(side, sky)
    rows = 8
    lean = rng.choice([-1, 1])
    for row in range(rows):
        depth = row / (rows - 1)
        length = (62 + 70 * depth) * rng.uniform(0.85, 1.15)
        height = length * rng.uniform(0.26, 0.34)
        base = 60 + 470 * depth**1.15
        t = np.arange(-3, UNITS / length + 3, 0.01) + rng.random()
        swell = np.interp(t, np.arange(-4, 40), rng.uniform(0.65, 1.25, 44))
        phase = 2 * np.pi * t
        # A trochoid: its crests lean over and curl where the circle is larger than the wave can carry.
        cx = length * (t + 0.2 * lean * swell * np.cos(phase) + 0.05 * swell * np.sin(phase))
        cy = base - height * swell * (np.cos(phase) + 0.18 * np.cos(2 * phase + 0.6))
        crest = np.stack([cx, cy], -1)
        bands = 9
        for band in range(bands + 1):
            drop = band * height * 0.36
            shift = crest + np.array([-lean * band * length * 0.028, drop])
            colour = [foam, *water][0 if band == 0 else 1 + (band * 2 + row) % len(water)]
            body = np.concatenate([shift, [[UNITS + 400, UNITS + 200], [-400, UNITS + 200]]])
            sheet.polygon(body, colour)
            sheet.line(shift, dark, 1.6 if band else 2.6)
            if band:
                for thin in (0.3, 0.6):
                    sheet.line(shift + np.array([0, height * 0.36 * thin]), 0.55 * colour + 0.45 * foam, 1.0)
        top = np.flatnonzero(np.cos(phase) > 0.35)
        for k in rng.choice(top, min(len(top), 150), replace=False):
            far, radius = abs(rng.normal(0, height * 0.16)), rng.uniform(1.0, 4.6) * (0.6 + 0.6 * depth)
            place = crest[k] + rng.normal(0, 1, 2) * far - np.array([0, far])
            sheet.dot(place, radius + 1.1, dark)
            sheet.dot(place, radius, foam)
    fibre = noise(rng, side, 5, 2)
    return sheet.picture() * (1 + 0.025 * fibre)[..., None]


def brush(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Thick oil strokes that follow swirling air, bristle by bristle, with the paint's relief."""
    x, y = plane(side)
    angle = 0.9 * noise(rng, side, 200)
    glow = np.zeros_like(x)
    for _ in range(6):
        cx, cy, radius = rng.uniform(0, UNITS), rng.uniform(0, UNITS), rng.uniform(40, 95)
        far = np.hypot(x - cx, y - cy)
        pull = np.exp(-((far / radius) ** 2) * 0.6)
        turn = np.arctan2(y - cy, x - cx) + np.pi / 2
        angle = np.arctan2((1 - pull) * np.sin(angle) + 2 * pull * np.sin(turn), (1 - pull) * np.cos(angle) + 2 * pull * np.cos(turn))
        glow = np.maximum(glow, pull * (0.75 + 0.25 * np.cos(far / radius * 9)))
    tone = ((0.75 * scene(rng, side) + 0.08 * noise(rng, side, 50)) * (1 - glow) + glow).clip(0, 1)
    sheet = Sheet(side, ramp(palette, tone))
    for count, length, width in ((1300, 10, 13.0), (3000, 8, 8.0), (1600, 6, 5.0)):
        starts = rng.uniform(-10, UNITS + 10, (count, 2)).astype(np.float32)
        paths = streams(angle, starts, length, width * 0.62)
        tones = sample(tone, paths[:, length // 2]) + rng.normal(0, 0.085, count)
        colours = ramp(palette, tones.clip(0, 1).astype(np.float32)) * (1 + rng.normal(0, 0.08, (count, 1)))
        bristles = 4
        shades = rng.normal(0, 0.075, (count, bristles))
        for path, colour, shade in zip(paths, colours, shades, strict=True):
            along = path[-1] - path[0]
            across = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-6) * width / bristles
            for k in range(bristles):
                line = path + across * (k - (bristles - 1) / 2)
                sheet.line(line, colour + shade[k], width / bristles * 1.25, joint=None)
    picture = sheet.picture()
    return lit(picture, picture.mean(-1) * 9, 0.2)  # light paint stands higher than dark


def points(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Pointillism: dots of pure colour beside their opposites, that mix only in the eye."""
    tone = scene(rng, side)
    sheet = Sheet(side, 0.35 + 0.6 * palette[len(palette) // 2])
    for pitch, radius in ((11.0, 6.6), (8.5, 4.9), (8.0, 4.1)):
        n = int(UNITS / pitch) + 2
        lattice = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * pitch
        spots = rng.permutation(lattice + rng.normal(0, pitch * 0.32, lattice.shape)).astype(np.float32)
        tones = sample(tone, spots) + rng.normal(0, 0.06, len(spots))
        stray = rng.random(len(spots)) < 0.08
        tones = np.where(stray, tones + 0.5, tones)  # the opposite side of the palette
        picked = np.floor(tones * len(palette)).astype(int) % len(palette)
        colours = palette[picked] * (1 + rng.normal(0, 0.07, (len(spots), 1)))
        for spot, colour, size in zip(spots, colours, rng.uniform(0.75, 1.2, len(spots)), strict=True):
            sheet.dot(spot, radius * size, colour)
    return sheet.picture() * (1 + 0.03 * noise(rng, side, 4))[..., None]


def pastel(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Wax crayon: zigzag scribbles of bright colours that catch on the grain of a paper."""
    paper, *colours = palette
    tone = scene(rng, side)
    picture = np.broadcast_to(paper, (side, side, 3)).astype(np.float32)
    grain = noise(rng, side, 3.2, 2)
    for layer in range(4):
        sheet, mask = Sheet(side, paper), Sheet(side, np.zeros(3, np.float32))
        for _ in range(110):
            centre = rng.uniform(0, UNITS, (1, 2)).astype(np.float32)
            pick = int(sample(tone, centre)[0] * len(colours) + rng.normal(0, 0.35)) % len(colours)
            turn, wide, long = rng.normal(0.9, 0.25) + pick * 0.5, rng.uniform(18, 42), rng.uniform(30, 66)
            strokes = int(long / 2.2)
            along = np.linspace(-long, long, strokes) + rng.normal(0, 0.7, strokes)
            across = wide * np.where(np.arange(strokes) % 2, 1, -1) * rng.uniform(0.75, 1.1, strokes)
            rotate = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            path = centre + np.stack([along, across], -1) @ rotate
            colour = np.asarray(colours[pick]) * (1 + rng.normal(0, 0.06))
            sheet.line(path, colour, 4.2)
            mask.line(path, np.full(3, rng.uniform(0.75, 1.0)), 4.2)
        pressure = mask.picture()[..., 0]
        picture = blend(picture, sheet.picture(), ease(-0.5, 0.6, pressure * 2.1 - 1.05 - 0.6 * grain) * ease(0.05, 0.3, pressure))
        grain = 0.9 * grain + 0.1 * layer
    return lit(picture, grain * 1.2, 0.05)


def watercolour(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Wet blooms: glazes with dark rims where the pigment dried, granulation, back-runs and splashes."""
    paper, *pigments = palette
    x, y = plane(side)
    picture = np.broadcast_to(paper, (side, side, 3)).astype(np.float32)
    grain = noise(rng, side, 4, 2)
    edges = [noise(rng, side, scale, 4) for scale in (90, 60, 40)]
    picture = picture.copy()
    for k in range(96):
        cx, cy = rng.uniform(-20, UNITS + 20, 2)
        radius = rng.uniform(40, 110) if k < 62 else rng.uniform(4, 22)
        pigment = np.log(np.asarray(pigments[rng.integers(len(pigments))]).clip(0.03, 1))
        stretch, strength, turn = rng.uniform(0.8, 1.3), rng.uniform(0.35, 0.9), rng.integers(0, UNITS, 2) * side // UNITS
        reach = np.array([1.7 / stretch, 1.7]) * radius  # nothing is wet beyond it
        place = np.array([cy, cx])
        top, left = (np.maximum(place - reach, 0) * side / UNITS).astype(int)
        low, right = (np.maximum(place + reach, 0) * side / UNITS).astype(int) + 1
        part = np.s_[top:low, left:right]
        if picture[part].size == 0:
            continue
        wobble = np.roll(edges[k % 3], turn, (0, 1))
        inside = 1 - np.hypot((x[part] - cx) / radius, (y[part] - cy) / radius * stretch) + 0.2 * wobble[part]
        wet = ease(0, 0.05, inside)
        rim = np.exp(-((inside - 0.045) ** 2) / (0.03 if k % 4 else 0.05) ** 2)
        pool = 0.34 + 0.15 * np.roll(wobble, side // 3, 0)[part] + 0.12 * grain[part]
        picture[part] *= np.exp(pigment * (wet * (pool.clip(0.05, 1) + 0.75 * rim) * strength)[..., None])
    return lit(picture, noise(rng, side, 7, 2) * 0.8, 0.05)
