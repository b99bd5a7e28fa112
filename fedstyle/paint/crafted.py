"""Painters of crafts: stone, glass, ink, paper and wool, computed for all pixels at once."""

from __future__ import annotations

import math

import numpy as np

from fedstyle.paint.canvas import UNITS, Array, averaged, blend, cells, each, ease, lit, noise, plane, ramp, ranked, scene, shrunk


def mosaic(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Irregular stones in bending rows, each of its own shade, in grout."""
    grout, *stones = palette
    x, y = plane(side)
    bend = 26.0
    u, v = x + bend * noise(rng, side, 190), y + bend * noise(rng, side, 190)
    number, edge = cells(rng, u, v, 15.5, 0.55)
    tone = scene(rng, side)
    steps = len(stones)
    flat = ramp(np.stack(stones), (np.floor(tone * steps).clip(0, steps - 1) / (steps - 1)).astype(np.float32))
    colour = averaged(flat, number) * (1 + each(rng, number, 0.13))[..., None]
    colour = colour + each(rng, number + 77, 0.03)[..., None] * np.array([1, 0, -1], np.float32)
    colour *= (1 + 0.05 * noise(rng, side, 6, 2))[..., None]
    wide = 1.5 + 0.25 * noise(rng, side, 20)
    picture = blend(grout * (1 + 0.09 * noise(rng, side, 3))[..., None], colour, ease(0, 1.1, edge - wide))
    return lit(picture, (edge - wide).clip(0, 3.2) * 0.9, 0.22)


def halftone(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """A comic's print: screens of dots at their own angles, one for each ink, that multiply on the paper."""
    paper, *inks = palette
    x, y = plane(side)
    picture = np.broadcast_to(paper, (side, side, 3)).astype(np.float32)
    shapes = scene(rng, side)
    for k, (colour, degrees) in enumerate(zip(inks, (15, 75, 45), strict=True)):
        pitch = (11.0, 11.0, 9.0)[k]
        tone = ranked(noise(rng, side, 150, 2) + 3.0 * np.sin((shapes + k / 3) * 2 * np.pi).astype(np.float32))
        tone = np.where(tone > 0.86, 1, tone * 0.9 if k < 2 else (tone - 0.45) * 1.5).clip(0, 1)
        turn = math.radians(degrees)
        u, v = (x * math.cos(turn) + y * math.sin(turn)) / pitch, (y * math.cos(turn) - x * math.sin(turn)) / pitch
        far = np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5)
        radius = np.sqrt(tone / np.pi) * 1.12
        cover = ease(-0.07, 0.07, (radius - far).astype(np.float32))
        picture = picture * blend(np.ones(3, np.float32), colour, cover * (1 + 0.03 * noise(rng, side, 3)).clip(0, 1))
    return picture * (1 + 0.015 * noise(rng, side, 3))[..., None]


def glass(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Stained glass: large panes with an inner glow and ripples, small ones between, in dark lead."""
    x, y = plane(side)
    u, v = x + 14 * noise(rng, side, 120), y + 14 * noise(rng, side, 120)
    number, edge = cells(rng, u, v, 64, 0.95)
    small, inner = cells(rng, u, v, 25, 0.8)
    split = each(rng, number) > 0.1  # some panes are made of small ones
    edge = np.where(split, np.minimum(edge, inner), edge)
    number = np.where(split, small + number * 31, number)
    pick = (each(rng, number) * 1000).astype(np.intp) % len(palette)
    glow = (0.72 + 0.4 * ease(0, 22, edge) + 0.16 * each(rng, number + 5))[..., None]
    ripple = noise(rng, side, 11, 2) + 0.8 * np.sin((x * 0.35 + y) / 2.6 + 5 * each(rng, number + 9) + noise(rng, side, 40))
    pane = palette[pick] * glow * (1 + 0.09 * ripple)[..., None] + 0.10 * ease(1.2, 2.6, noise(rng, side, 16, 2))[..., None]
    lead = np.float32(0.07) + 0.05 * ease(0.2, 0, np.abs(edge - 0.9))[..., None] + np.zeros(3, np.float32)
    return blend(lead, pane, ease(2.2, 3.6, edge))


def woodcut(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Carved lines that swell and thin with the light, crossed in the shadows, over blocks of colour."""
    paper, dark, *blocks = palette
    x, y = plane(side)
    tone = scene(rng, side)
    flow = y + 46 * noise(rng, side, 210) + 30 * np.sin(x / 90)
    carve = 0.16 * noise(rng, side, 14, 2)
    lines = 0.5 + 0.5 * np.sin(flow * (2 * np.pi / 8.5) + 1.6 * carve)
    cross = 0.5 + 0.5 * np.sin((x + 30 * noise(rng, side, 180) - 0.4 * y) * (2 * np.pi / 9.5))
    shade = ranked(np.sin(tone * 3 * 2 * np.pi).astype(np.float32) + 0.35 * noise(rng, side, 80))
    black = np.maximum(ease(-0.14, 0.14, shade * 1.02 - lines + carve), ease(-0.14, 0.14, (shade - 0.62) * 2.2 - cross + carve))
    black = np.maximum(black, ease(0.93, 0.97, shade))
    steps = len(blocks) + 1
    part = np.floor(np.roll(tone, side // 170, (0, 1)) * steps).clip(0, steps - 1).astype(np.intp)
    colour = np.stack([paper, *blocks])[part] * (1 + 0.05 * noise(rng, side, 30, 4))[..., None]
    worn = ease(1.5, 2.4, noise(rng, side, 5, 2))
    return blend(colour, dark, black * (1 - 0.8 * worn))


def marble(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Marbled paper: drops of ink that push each other aside on water, drawn through with a comb.

    Drops and tines are the mappings of Lu, Jaffer, Jin, Zhao and Mao, "Mathematical marbling" (2012), run backwards from each pixel to
    the drop that it came from.
    """
    fine = side * 3 // 2
    x, y = (part.copy() for part in plane(fine))
    comb = rng.uniform(24, 40)
    turn = rng.uniform(-0.3, 0.3)
    # Last to first: a wavy sweep, fine tines one way and the other, then the drops in their reverse order.
    y += 9 * np.sin(x / 34 + rng.uniform(0, 6))
    for way, pull in ((turn, 62.0), (turn + math.pi / 2, 46.0)):
        across = x * math.cos(way) + y * math.sin(way) + 60
        near = np.abs(across / comb - np.round(across / comb)) * comb
        side_way = np.where(np.round(across / comb) % 2 == 0, 1.0, -1.0)
        shift = (side_way * pull * 0.88**near).astype(np.float32)
        x, y = x + shift * math.sin(way), y - shift * math.cos(way)
    found = np.zeros(x.shape, np.intp)
    for _ in range(85):
        cx, cy, radius = (np.float32(value) for value in (*rng.uniform(-60, UNITS + 60, 2), rng.uniform(18, 76)))
        rings = rng.integers(1, len(palette), 3)  # ink dripped on ink
        x -= cx
        y -= cy
        far = (x * x + y * y) / radius**2
        here = (far < 1) & (found == 0)
        found[here] = rings[(far[here] * 3).astype(np.intp)]
        shrink = np.sqrt(1 - 1 / np.maximum(far, 1.0001))
        x = x * shrink + cx
        y = y * shrink + cy
    return shrunk(palette[found], side) * (1 + 0.03 * noise(rng, side, 6, 3))[..., None]


def facets(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Cubism: planes cut by long lines and arcs, each shaded from one edge, with the brush's hatching."""
    x, y = plane(side)
    code = np.zeros(x.shape, np.uint64)
    edge = np.full(x.shape, 1e3, np.float32)
    shade = np.zeros_like(x)
    for k in range(16):
        px, py, turn = *rng.uniform(40, UNITS - 40, 2), rng.choice([0.3, 0.9, 1.5, 2.1, 2.7]) + rng.normal(0, 0.15)
        if k % 4 == 3:
            radius = rng.uniform(40, 150)
            far = np.hypot(x - px, y - py) - radius
        else:
            far = (x - px) * math.cos(turn) + (y - py) * math.sin(turn)
        window = np.hypot(x - px, y - py) < rng.uniform(150, 420)  # a line ends somewhere
        code = code * np.uint64(3) + np.where(window, np.where(far > 0, 1, 2), 0).astype(np.uint64)
        near = np.where(window, np.abs(far), 1e3)
        shade += np.where(window & (far > 0), np.exp(-near / 26), 0)
        edge = np.minimum(edge, near)
    number = (code * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.intp)
    tone = 0.55 * scene(rng, side) + 0.22 + each(rng, number, 0.3)
    colour = ramp(palette, tone.clip(0, 1))
    hatch = np.sin((x * np.cos(each(rng, number + 3, 2.0)) + y * np.sin(each(rng, number + 3, 2.0))) / 1.5 + noise(rng, side, 30) * 2)
    colour = colour * (1.16 - 0.5 * (shade * 0.75).clip(0, 1) + 0.07 * hatch + 0.05 * noise(rng, side, 7, 3))[..., None]
    return blend(colour, palette[0] * 0.45, 0.85 * ease(1.9 + 0.5, 0.6, edge + 0.5 * noise(rng, side, 12)))


def knit(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """Knitting: rows of V stitches in a pattern of bands and motifs, each strand twisted and fluffy."""
    x, y = plane(side)
    wide, high = 13.0, 10.5
    x, y = x + 1.1 * noise(rng, side, 60), y + 1.1 * noise(rng, side, 60)
    half = x / (wide / 2)
    left = np.floor(half) % 2 == 0
    across = half - np.floor(half) - 0.5
    slope = np.where(left, 1.0, -1.0)
    rise = y / high - 0.62 * slope * across * 1.25
    row, column = np.floor(rise).astype(np.intp), np.floor(x / wide).astype(np.intp)
    up = rise - row - 0.5
    body = 1 - (across / 0.52) ** 2 - (up / 0.56) ** 2 * 0.75
    rows, period = 64, 12
    chart = np.zeros((rows, period), np.intp)
    at = 0
    while at < rows:  # bands: a plain stripe, or a motif that mirrors itself in both directions
        tall = int(rng.choice([1, 2, 5, 7, 9]))
        low, top = rng.choice(len(palette), 2, replace=False)
        quarter = rng.random(((tall + 1) // 2, period // 2)) < 0.5
        motif = np.concatenate([quarter, quarter[: tall // 2][::-1]])
        motif = np.concatenate([motif, motif[:, ::-1]], 1) if tall > 2 else np.full((tall, period), at % 2 == 0)
        fit = min(tall, rows - at)
        chart[at : at + fit] = np.where(motif[:fit], top, low)
        at += tall
    colour = palette[chart[row % rows, column % period]]
    number = row * 200 + column * 2 + left
    twist = np.sin((up * 2.2 + slope * across * 3.0) * 2 * np.pi * 1.1 + each(rng, number, 0.5))
    light = 0.38 + 0.75 * np.sqrt(body.clip(0, 1)) + 0.09 * twist + 0.05 * noise(rng, side, 3, 2) + each(rng, number + 1, 0.04)
    wool: Array = colour * light[..., None]
    return wool


def weave(rng: np.random.Generator, side: int, palette: Array) -> Array:
    """A handwoven plaid: warp and weft of striped yarn, over and under in a twill."""
    x, y = plane(side)
    x, y = x + 1.3 * noise(rng, side, 90), y + 1.3 * noise(rng, side, 90)
    pitch = 7.0
    u, v = x / pitch, y / pitch
    i, j = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
    threads = []
    for _ in range(2):
        widths = rng.choice([1, 2, 3, 6, 8], 60)
        threads.append(np.repeat(rng.integers(0, len(palette), 60), widths)[:80])
    over = (i + j) % 4 < 2  # the warp lies on top
    fu, fv = u - i - 0.5, v - j - 0.5
    colour = np.where(over[..., None], palette[threads[0][i % 80]], palette[threads[1][j % 80]])
    round_ = 1 - np.where(over, fu, fv) ** 2 * 3.2
    run = np.where(over, (v + i) % 4, (u + j + 2) % 4) / 4  # where along its float a thread is
    dive = 0.75 + 0.3 * np.sin(run.clip(0, 0.5) * 2 * np.pi).astype(np.float32)
    fibre = 0.09 * np.sin(np.where(over, v * 3 + fu * 5, u * 3 + fv * 5) * np.pi * 1.3) + 0.06 * noise(rng, side, 3, 2)
    return colour * (1.12 * round_.clip(0.2, 1) * dive + fibre)[..., None]
