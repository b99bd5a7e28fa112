"""A whole federation over the network, on this machine: the operator's part, and a home for each device."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedstyle.base import Base
from fedstyle.config import Config
from fedstyle.errors import FederationError
from fedstyle.federation import Federation, Watch
from fedstyle.filter import Filter
from fedstyle.membership import Membership
from fedstyle.personalising import pictures
from fedstyle.population import Device, plan
from fedstyle.record import write_summary
from fedstyle.report import write_report
from fedstyle.training import derive


def rehearse(config: Config, out: str | Path, *, watch: Watch = lambda _: None) -> Base:
    """Run a whole federation on this machine as it would run on many: SuperLink, TLS, a SuperNode with a home of its own for each client.

    `out` becomes a run's folder in the usual layout, with each device's home in `clients/<id>`, and the federation's own files beside it.
    Each device ends with its filter, made and proved from its home alone. All processes are gone at the end, however it ends. Raises what
    `Federation` and `Membership` raise.
    """
    started, out = time.monotonic(), Path(out).absolute()
    population = plan(config)
    federation = Federation.found(config, out, ["localhost", "127.0.0.1"])
    first = Base.load(out / "base").sha256
    with federation.open() as link, ExitStack() as nodes:
        watch(f"a SuperLink listens on {link.address}, over TLS, for registered devices alone")
        homes = []
        for number, device in enumerate(population.devices):
            home = furnish(config, federation, number, device, link.address)
            federation.enrol(home.home / "key.pub", device.id)
            nodes.enter_context(_node(home))
            homes.append(home)
            watch(f"device {device.id} joined: {len(device.photos)} photos, style {device.style_name}")
        base = federation.run(watch=watch)
    federated = time.monotonic()
    rows = []
    for home in homes:
        rows.append(_finish(home))
        watch(_account(home, rows[-1]))
    timings = {"federation": federated - started, "personalization": time.monotonic() - federated, "export": 0.0}
    more: dict[str, Any] = {"photos_skipped": dict(population.skipped), "first_base_sha256": first}
    write_summary(out, config, federation.state(), len(homes), federation.history(), rows, timings, network=True, **more)
    write_report(out)
    if failed := [f"{row['id']} ({row['error']})" for row in rows if row["error"]]:
        raise FederationError(f"{len(failed)} of {len(rows)} devices have no filter: {', '.join(failed)}; see errors.log in their homes")
    return base


def own_config(config: Config, number: int, device: Device) -> Config:
    """A run's configuration as one of its devices has it: with a seed and a look of its own, as in a simulation."""
    training = dataclasses.replace(config.training, seed=derive(config.training.seed, "client", number))
    loss = dataclasses.replace(config.loss, strength=device.strength, density=device.density)
    return dataclasses.replace(config, training=training, loss=loss)


def furnish(config: Config, federation: Federation, number: int, device: Device, address: str) -> Membership:
    """A device's home with photos, style image and credentials in it, as a person would have them; nothing points out of it."""
    home = federation.folder / "clients" / device.id
    for name, photos in (("photos", device.photos), ("heldout", device.heldout)):
        (home / name).mkdir(parents=True)
        for index, path in enumerate(photos.paths):
            shutil.copyfile(path, home / name / f"{index:04d}{path.suffix}")
    device.style_image(config.training.seed).save(home / "style.png")
    shutil.copyfile(federation.folder / "authority" / "authority.crt", home / "authority.crt")
    shutil.copyfile(federation.folder / "operator.pub", home / "operator.pub")
    return Membership.create(
        home,
        address=address,
        photos="photos",
        heldout="heldout" if len(device.heldout) else "",
        style="style.png",
        name=device.style_name,
        operator="operator.pub",
        config=own_config(config, number, device),
        wire=config.server.wire,
        policy={"base": federation.pin(), "last_round": config.server.rounds},
    )


@contextlib.contextmanager
def _node(home: Membership) -> Iterator[None]:
    from fedstyle.flower.deployment import supernode

    settings = home.settings()
    place = settings.federation
    with supernode(home.home, place.address, settings.path(place.authority), settings.path(place.key)):
        yield


def _finish(home: Membership) -> dict[str, Any]:
    """A device's own end, and its line of the summary; one that fails does not stop the others."""
    from fedstyle.flower.notes import note_error

    try:
        row = home.finish()
        _show(home)
    except Exception as error:  # noqa: BLE001  whatever went wrong on one device, the others go on and the end says so
        note_error(home.home, "finish", error)
        row = {"id": home.home.name, "filter": None, "package": None, "parity": None, "losses": None, "improvement": None}
        return row | {
            "style": None,
            "strength": None,
            "density": None,
            "photos": 0,
            "heldout": 0,
            "role": "seen",
            "error": type(error).__name__,
        }
    return row | {key: row[key] and f"clients/{home.home.name}/{row[key]}" for key in ("filter", "package")}


def _show(home: Membership) -> None:
    """Small pictures of what the report shows, on the device's own disk."""
    settings, base = home.settings(), Base.load(home.home / "base")
    client, photo = settings.client(), settings.judged().load(0)
    pictures(home.home / "pictures", client.look.image, photo, client.predict(base), Filter.load(home.home / "filter"))


def _account(home: Membership, row: dict[str, Any]) -> str:
    """A device's ledger and its end for a person."""
    left = home.ledger()
    sent = f"{len(left)} answers, {sum(line['bytes'] for line in left) / 1e6:.2f} MB left it"
    if row["error"]:
        return f"device {row['id']}: {sent}; no filter: {row['error']}"
    proved = f", {row['package']} is that filter to {row['parity']['psnr']:.0f} dB" if row["package"] else ""
    return f"device {row['id']}: {sent}; its filter lowers the loss by {row['improvement']:.0%}{proved}"
