"""Users whose styles are named one by one, and what a base is worth to them, for studies in which it matters who a user is."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from fedstyle import Base, Client, Config, Filter, Photos
from fedstyle.config import Loss
from fedstyle.errors import StyleError
from fedstyle.perceptual import Objective
from fedstyle.training import evaluate

CELL = 128
"""The side of a picture on a contact sheet, in pixels."""


def family(folder: Path, beginnings: str) -> list[Path]:
    """The style images whose names begin with one of these words, which commas part; raises StyleError when there are none."""
    words = tuple(word.strip() for word in beginnings.split(","))
    found = sorted(path for path in folder.glob("*") if path.name.startswith(words) and path.is_file())
    if not found:
        raise StyleError(f"{folder} holds no style whose name begins with one of {', '.join(words)}: name others")
    return found


def drawn(whole: Sequence[Path], count: int) -> list[Path]:
    """So many styles from the front, round and round when there are fewer."""
    return [whole[place % len(whole)] for place in range(count)]


@dataclass(frozen=True)
class Person:
    """One who judges: a client that keeps nothing, the views of photos that nothing was trained on, and each judge's objective."""

    id: str
    style: str
    client: Client
    views: Sequence[Tensor]
    objectives: Mapping[str, Objective]

    @classmethod
    def make(cls, id: str, style: str, client: Client, heldout: Photos, judges: Mapping[str, Loss]) -> Person:
        """A user who has yet taken part in nothing."""
        client = dataclasses.replace(client, home=None)
        views = list(heldout.each_view(client.plan.size, processing=client.training.processing))
        objectives = {name: dataclasses.replace(client, loss=loss).objective() for name, loss in judges.items()}
        return cls(id, style, client, views, objectives)

    @property
    def view(self) -> Image.Image:
        """The first of the photos that the user judges on."""
        return Image.fromarray(self.views[0].permute(1, 2, 0).numpy())

    def judge(self, base: Base, home: Path | None = None) -> tuple[dict[str, dict[str, float]], Filter]:
        """Each judge's mean total loss of the base, and of the user's filter after `training.iterations`; and the filter.

        A user who took part in the rounds has a `home` with private norms in it.
        """
        client = dataclasses.replace(self.client, home=home)
        filter = client.personalize(base, iterations=client.plan.iterations).result()
        models = {"base": client.predict(base), "filter": filter}
        found = {
            name: {kind: evaluate(model.net, objective, self.views)["total"] for kind, model in models.items()}
            for name, objective in self.objectives.items()
        }
        return found, filter


def wishes(judge: str, weights: str, config: Config) -> dict[str, Loss]:
    """The judges: `tiny`, and the one that the command names; under the weights of the run's own loss."""
    names = {"tiny": ""} | ({judge: weights} if judge else {})
    return {name: dataclasses.replace(config.loss, features=name, weights=file) for name, file in names.items()}


def mean(rows: Sequence[Mapping[str, Mapping[str, float]]], judge: str, kind: str) -> float:
    """The mean over users of what a judge says of a kind of model."""
    return statistics.fmean(row[judge][kind] for row in rows)


def sheet(path: Path, columns: Sequence[str], lines: Mapping[str, Sequence[Image.Image]]) -> None:
    """A contact sheet: a line of pictures for each name, as JPEG."""
    from PIL import ImageDraw, ImageOps

    whole = Image.new("RGB", (150 + CELL * len(columns), 20 + CELL * len(lines)), "white")
    draw = ImageDraw.Draw(whole)
    for place, label in enumerate(columns):
        draw.text((154 + place * CELL, 4), label[:20], fill="black")
    for line, (label, pictures) in enumerate(lines.items()):
        draw.text((4, 20 + line * CELL + CELL // 2), label, fill="black")
        for place, picture in enumerate(pictures):
            whole.paste(ImageOps.fit(picture.convert("RGB"), (CELL, CELL)), (150 + place * CELL, 20 + line * CELL))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path, quality=88)
