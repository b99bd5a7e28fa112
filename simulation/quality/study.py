"""What a process of the yardstick works on, and the work on one style and seed: train, stylise, judge, write a row."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gatys
import pictures
import rows
import torch
import users
from arms import Protocol, climb
from judging import Panel
from torch import Tensor

from fedstyle import Base, Client, Style
from fedstyle.files import append_json
from fedstyle.perceptual import FeatureNet


@dataclass(frozen=True)
class Study:
    """The protocol, where things lie, and what was read from there; `photos` (N, 3, S, S) in [0, 1] are those to judge on."""

    protocol: Protocol
    data: Path
    out: Path
    file: Path
    """Where this process writes its rows."""
    judges: dict[str, FeatureNet]
    photos: Tensor
    starts: dict[str, Base]
    """The base of each arm that has one."""
    settings: dict[str, str]
    """The digest of each arm's settings."""

    def work(self, look: users.Look, seed: int) -> None:
        """Make the rows of a style and seed that do not stand yet."""
        stand = {rows.place(row): row for row in rows.current(self.out) if (row["style"], row["seed"]) == (look.name, seed)}
        ladders = {arm: self._ladder(arm, seed) for arm in self.settings}
        missing = {arm: [step for step in ladder if (arm, step) not in stand] for arm, ladder in ladders.items()}
        if not any(missing.values()):
            return
        style = Style(look.image(self.data))
        panel = Panel.seat(self.judges, style, self.photos)
        if not seed:
            pictures.keep_style(self.out, look.name, style.image)
        for arm in [arm for arm, steps in missing.items() if steps]:
            head = {"style": look.name, "seed": seed, "arm": arm}
            if arm in rows.ONCE:
                self._once(head, panel)
                continue
            photos = users.library(self.data, look.name, seed, self.protocol.photos)
            client = Client(None, photos, style, training=self.protocol.trains(seed, self.starts.get(arm)))
            seconds = {step: stand[arm, step]["seconds"] for step in ladders[arm] if (arm, step) in stand}
            self._climb(head, panel, client, missing[arm], seconds)

    def _ladder(self, arm: str, seed: int) -> tuple[int, ...]:
        if arm in rows.ONCE:
            return () if seed else (0,)
        return self.protocol.ladder(arm, seed)

    def _once(self, head: dict[str, Any], panel: Panel) -> None:
        """The untouched photos, or Gatys' image of each."""
        if head["arm"] == "photo":
            self._note({**head, "iterations": 0, "seconds": 0.0}, panel, self.photos)
            return
        before = time.process_time()
        objective = panel.objectives[self.protocol.judges[0]]
        made = [gatys.optimise(photo[None], objective, self.protocol.gatys) for photo in self.photos]
        steps = [count for _, count in made]
        facts = {"iterations": max(steps), "each": steps, "seconds": time.process_time() - before}
        self._note({**head, **facts}, panel, torch.cat([image for image, _ in made]))

    def _climb(self, head: dict[str, Any], panel: Panel, client: Client, steps: list[int], seconds: dict[int, float | None]) -> None:
        """One arm's training, judged at each step of its ladder."""
        arm, seed = head["arm"], head["seed"]
        session = self.out / "sessions" / f"{head['style']}-{seed}-{arm}-{self.settings[arm]}"
        start = self.starts.get(arm) or self.protocol.start(seed)
        for iterations, filter, spent in climb(client, start, arm in ("scratch", "full"), steps, seconds, session):
            stylised = torch.cat([filter.stylise(photo[None].cpu()) for photo in self.photos])
            self._note({**head, "iterations": iterations, "seconds": spent}, panel, stylised.to(self.photos.device))
        if arm != "scratch" or seed or self.protocol.long:  # the first seed may be asked to go on with --long
            shutil.rmtree(session, ignore_errors=True)

    def _note(self, row: rows.Row, panel: Panel, stylised: Tensor) -> None:
        """Judge stylised photos, keep the first seed's pictures, and write the row."""
        losses, ssim = panel.judge(stylised)
        if not row["seed"]:
            pictures.keep(self.out, row, stylised)
        spent = row.pop("seconds")
        row |= {"seconds": None if spent is None else round(spent, 2), "device": self.photos.device.type}
        append_json(self.file, {**row, "setting": self.settings[row["arm"]], **losses, "ssim": ssim})
        total = losses[self.protocol.judges[-1]]["total"]
        print(f"{row['style']}, seed {row['seed']}: {row['arm']} {row['iterations']}, total {total:.3f}", flush=True)
