"""The client SDK: what runs on a device, next to its photos and style image.

A client's home folder holds all that is private: `private.safetensors` (parameters that are not shared, the method's memory, and the last
update, for a server that asks for it again), `losses.jsonl`, `ledger.jsonl` (every byte count and array name that left) and the personal
filter.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from fedstyle import params
from fedstyle.base import Base, build
from fedstyle.candidates import Source
from fedstyle.companions import is_own, join, outfit, part
from fedstyle.config import Loss, Privacy, Training
from fedstyle.errors import ParamsError
from fedstyle.files import append_json, private_folder
from fedstyle.filter import Filter
from fedstyle.job import Job, Work
from fedstyle.keeping import Copy
from fedstyle.methods import OWN, Method, make_method
from fedstyle.perceptual import Objective, load_features
from fedstyle.photos import Photos, open_image
from fedstyle.prediction import Look, look_at, read_style, variants
from fedstyle.privacy import clip
from fedstyle.session import SessionParameters, count
from fedstyle.style import Style, fitting
from fedstyle.threads import threads
from fedstyle.training import Content, Progress, Task, choose_device, derive, evaluate

PREVIEW = 1024
"""The longer side of a checkpoint's validation picture, in pixels."""
KINDS = ("net/", "memory/", "sent/", "asked")
"""What `private.safetensors` holds: private parameters, the method's memory, the last update, and the hash of what asked for it."""


@dataclass(frozen=True)
class Update:
    """Everything that may leave a device after a round: the change of the shared parameters and companions, by name, in fp32."""

    delta: Mapping[str, Tensor]


@dataclass
class Client:
    """A device: its own folder, photos, style image, and the method that it was configured with.

    `method` and `loss`/`training` are the device's own choice; a server cannot name them. Without `training` it trains in rounds at the
    defaults, and personalises as the base advises. `home` may be None for a client that keeps nothing. `photos` may be a folder or a list
    of files, and `style` a path. They are opened without thumbnails, whatever the home, so that the same photos give the same filter and
    the same update on every device and in a simulation; an app that rather starts sooner gives `Photos.open(folder, thumbnails=...)`.
    `folder` is the home as a path.
    """

    home: Path | str | None
    photos: Photos | Source
    style: Style | Path | str
    _: KW_ONLY
    method: Method = field(default_factory=lambda: make_method({"name": "fedbn"}))
    privacy: Privacy | None = None
    loss: Loss = field(default_factory=Loss)
    training: Training | None = None
    _content: Content | None = field(default=None, init=False, repr=False)
    _left: Copy = field(default_factory=Copy, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Open photos and style, and find the device that trains."""
        self.folder = Path(self.home) if self.home else None
        self.library = self.photos if isinstance(self.photos, Photos) else Photos.open(self.photos)
        self.look = self.style if isinstance(self.style, Style) else Style(self.style)
        self.plan = self.training or Training()  # in rounds, and wherever no base has a say
        self.device = choose_device(self.plan.device)

    def objective(self) -> Objective:
        """What this client's filter is to reach."""
        loss = self.loss
        features = load_features(loss.features, loss.weights).to(self.device)
        weight = loss.style * self.look.factor
        return Objective(features, self.look.targets(features), loss.content, weight, loss.layers, loss.total_variation)

    def task(self, seed: int, proximal: float = 0.0, *, round: int = 0, teaches: bool = False) -> Task:
        """What to train on; crops and their content features are made once and kept.

        `teaches` adds what a predictor of norms is to learn here, where the method trains one.
        """
        if self._content is None:
            crops = self.library.crops(self.plan.size, self.plan.crops, self.plan.seed, processing=self.plan.processing)
            self._content = Content(crops, self.objective(), self.device)
        looks = self._looks if teaches and hasattr(self.method, "variants") else ()
        return Task(self._content, self._content.objective, self.plan, seed, proximal, self.device, round, looks)

    def fit(self, base: Base, *, round: int | None = None, proximal: float = 0.0) -> Update:
        """Train for a round from the base and the private parameters, keep those, and give the update of the shared ones.

        `round` seeds the order of the batches; without it, it is the one after the base's. `proximal` is FedProx's mu, as a server asks it.
        When the last round is asked for again, with the same base and by a client of the same settings, it gives the same update without
        training: a server that lost it goes on as if nothing had happened. Raises ParamsError when the base does not fit what is kept at
        home, and any error of photos or training.
        """
        round = int(base.record.get("round", 0)) + 1 if round is None else round
        kept = self._read()
        order = f"{round} {proximal} {base.sha256} {self.method!r} {self.privacy!r} {self.loss!r} {self.plan!r}"
        asked = torch.tensor(list(hashlib.sha256(order.encode()).digest()), dtype=torch.uint8)
        if kept and torch.equal(kept["asked"].get("", torch.tensor(0)), asked):
            return Update(kept["sent/"])
        base = outfit(base, self.method)
        shared, private, memory = self._recall(base, kept)
        own, beside = part(shared)
        net = build(base.arch, base.padding, params.merge(own, private))
        task = self.task(derive(self.plan.seed, "round", round), proximal, round=round, teaches=base.predicts)
        task = dataclasses.replace(task, beside=beside)
        lines = [{"round": round, **progress.as_dict()} for progress in self.method.fit(net, task, memory)]
        if self.folder:
            private_folder(self.folder)
            append_json(self.folder / "losses.jsonl", *lines)
        new, private = params.split(join(_weights(net), beside), self.method.shares)
        update = Update(clip(params.subtract(new, shared), self.privacy.clip if self.privacy else 0.0))
        self._keep(private, memory, asked, update)
        return update

    def personalize(
        self,
        base: Base,
        *,
        iterations: int | str = "standard",
        full: bool = False,
        session: str | Path | SessionParameters | None = None,
        facts: Mapping[str, Any] | None = None,
        validation: Image.Image | str | Path | None = None,
    ) -> Job[Filter]:
        """A job that makes a filter from the base and the private parameters at home, if there are any; else from predicted norms.

        `iterations` is a number or a mode: quick 25, standard 100, best 500. Rates and warm-up are those of `training`; a client that was
        given none takes what the base's makers advise (`Training.for_base`). `full` trains every parameter instead of the method's private
        ones. With a `session` (a folder, or SessionParameters, whose iterations are a bound then) the job survives its
        process, and a stylised `validation` photo lies beside each checkpoint as its preview. `facts` are added to the filter's own.
        Photos are read and cut when the job is first driven, not here. Raises ParamsError when what is kept at home does not fit the base
        or is damaged, PhotoError for a validation photo that cannot be read.
        """
        if self._kept():
            self._recall(base)  # what is wrong with it is said at once
        total = count(iterations)
        if isinstance(session, SessionParameters):
            total = min(total, session.iterations)
        elif session is not None:
            session = SessionParameters(session)
        shown = open_image(Path(validation)) if isinstance(validation, str | Path) else validation and validation.copy()
        if shown:
            shown.thumbnail((PREVIEW, PREVIEW))
        return Job(lambda: self._work(base, total, full, dict(facts or {}), shown), iterations=total, session=session)

    def _work(self, base: Base, iterations: int, full: bool, facts: dict[str, Any], shown: Image.Image | None) -> Work[Filter]:
        _, private, left = self._recall(base)
        start = Filter(base.arch, base.padding, {**self.predict(base).weights, **private})
        net = build(start.arch, start.padding, start.weights)
        memory = {key: value for key, value in left.items() if key.startswith(OWN)}  # such as a second network
        task = self.task(derive(self.plan.seed, "personalize"))
        look = self.look if self.look.strength else dataclasses.replace(self.look, strength=self.choose_strength(base))
        objective = dataclasses.replace(task.objective, style_weight=self.loss.style * look.factor)
        task = dataclasses.replace(task, objective=objective, training=self._advised(base))
        task = dataclasses.replace(task, beside=part(outfit(base, self.method).weights)[1])
        known = self.facts(base, Progress(0, iterations, 0.0, 0.0, 0.0), full, look) | facts
        return Work(
            net,
            memory,
            lambda: self.method.personalize(net, task, memory, iterations, full),
            lambda now: Filter(base.arch, base.padding, _weights(net), known | {"iterations": now.iteration}),
            preview=(lambda: Filter(base.arch, base.padding, _weights(net))(shown)) if shown else None,
            identity=self.identity(base, private | memory if self._kept() else {}, full),
            about={"architecture": base.arch, "padding": base.padding, "facts": known},
        )

    def choose_strength(self, base: Base) -> int:
        """The style strength 3..7 for a user who chose none: see `style.fitting`; 5 from a base that knows no style yet.

        It measures the content loss of the filter at zero iterations on up to eight training crops, on this device, in about a second. The
        same base, photos and style give the same number.
        """
        kept = self._kept()
        if not (base.predicts or kept):
            return 5
        crops = self.task(0).content.crops[:8]
        with threads(1):  # the last bits of a sum depend on their number
            features = load_features("tiny").to(self.device)
            weights = base.transform(read_style(features, self.look.pixels) if base.predicts else None)
            net = build(base.arch, base.padding, weights | (self._recall(base)[1] if kept else {})).to(self.device)
            return fitting(evaluate(net, self.objective(), crops)["content"])

    def predict(self, base: Base) -> Filter:
        """The base as a filter at zero iterations: with the norms that it predicts for this style, or its own where it predicts none."""
        return Filter(base.arch, base.padding, base.transform(self._code if base.predicts else None))

    @functools.cached_property
    def _code(self) -> Tensor:
        return read_style(load_features("tiny").to(self.device), self.look.pixels)

    @functools.cached_property
    def _looks(self) -> tuple[Look, ...]:
        """What a predictor learns here: the style image and variants of it, as the feature network of the loss and its reader see them."""
        features = load_features(self.loss.features, self.loss.weights).to(self.device)
        reader = load_features("tiny").to(self.device)
        count, seed = getattr(self.method, "variants", 0), derive(self.plan.seed, "variants")
        pictures = (self.look.pixels, *variants(self.look.pixels, count, seed))
        return tuple(look_at(features, picture, reader) for picture in pictures)

    def facts(self, base: Base, progress: Progress, full: bool, look: Style | None = None) -> dict[str, Any]:
        """What is known of a filter and may travel with it: no path, no name, no time. `look` is the style with its strength chosen."""
        look = look or self.look
        return {
            "strength": look.strength,
            "density": look.density,
            "method": type(self.method).__name__.lower(),
            "trained": "all" if full else "private",
            "iterations": progress.iteration,
            "base_sha256": base.sha256,
            "size": self.plan.size,
            "loss": dataclasses.asdict(self.loss) | {"weights": "", "strength": look.strength, "density": look.density},
        }

    def identity(self, base: Base, kept: params.Params, full: bool) -> dict[str, Any]:
        """Every input of a personalisation, for its session; it stays on the device. `kept` are the private parameters at home.

        Predicted norms follow from base and style, and their last bits from the number of threads: they are no input.
        """
        return {
            "base": base.sha256,
            "private": params.fingerprint(kept),
            "photos": self.library.digest(self.plan.crops, self.plan.seed),
            "style": self.look.digest(),
            "method": [type(self.method).__name__, repr(self.method)],
            "loss": dataclasses.asdict(self.loss),
            "training": dataclasses.asdict(dataclasses.replace(self._advised(base), iterations=0)),
            "full": full,
        }

    def _advised(self, base: Base) -> Training:
        return self.training or Training.for_base(base.record)

    def evaluate(self, model: Base | Filter, photos: Photos) -> dict[str, float]:
        """Mean content, style and total loss of a base or filter on photos, at this client's style."""
        objective = self._content.objective if self._content else self.objective()
        model = self.predict(model) if isinstance(model, Base) else model
        net = build(model.arch, model.padding, model.weights).to(self.device)
        return evaluate(net, objective, photos.each_view(self.plan.size, processing=self.plan.processing))

    def _recall(
        self, base: Base, kept: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The base's shared parameters, the private ones (from home, else from the base) and the method's memory."""
        shared, private = params.split(base.weights, self.method.shares)
        private = {name: value for name, value in private.items() if is_own(name)}  # the rest is the base's alone
        kept = kept or self._read()
        if kept is None:
            if base.predicts and private:
                private = {name: value for name, value in self.predict(base).weights.items() if name in private}
            return shared, private, {}
        params.check_alike(kept["net/"], private, f"the private parameters in {self._kept()}")
        return shared, dict(kept["net/"]), dict(kept["memory/"])

    def _kept(self) -> Path | None:
        path = self.folder / "private.safetensors" if self.folder else None
        return path if path and path.exists() else None

    def _read(self) -> dict[str, dict[str, Tensor]] | None:
        """What is kept at home, by kind, or None; raises ParamsError when it is damaged."""
        path = self._kept()
        if path is None:
            return None
        try:
            state = self._left.get(path) or params.unseal(params.load(path), path)
        except ParamsError as error:
            raise ParamsError(f"{error}: remove it to start this client afresh") from None
        parts = {kind: {k.removeprefix(kind): v for k, v in state.items() if k.startswith(kind)} for kind in KINDS}
        if sum(map(len, parts.values())) != len(state):
            raise ParamsError(f"{path} holds tensors that fedstyle did not write: remove it to start this client afresh")
        return parts

    def _keep(self, private: params.Params, memory: params.Params, asked: Tensor, update: Update) -> None:
        """One file, so that the state after a round and the update that it gave are never of two rounds."""
        if self.folder:
            parts: dict[str, params.Params] = {"net/": private, "memory/": memory, "sent/": update.delta, "asked": {"": asked}}
            state = {kind + name: value for kind, part in parts.items() for name, value in part.items()}
            params.save(params.seal(state), self.folder / "private.safetensors")
            sent = {f"sent/{name}": value.clone() for name, value in update.delta.items()}  # the update itself is the caller's
            self._left.put(self.folder / "private.safetensors", state | sent)


def _weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in net.named_parameters()}
