"""A person's part in a federation over the network, one call each: to join, to pause, to leave, and to delete what training left.

    device = Membership.create("home", photos="Pictures", style="painting.jpg", address="example.org:8443", ...)
    device.join()      # takes part until the last base is there, then makes, exports and proves the filter on this device
    device.pause()     # from now on every order is refused; device.resume() takes part again
    device.leave()     # the device's key is destroyed: it cannot take part as this member any more
    device.forget()    # all that training left on this device is deleted

Leaving ends what is sent from now on. It cannot take back what was sent: earlier updates are in the base that others have, and no deletion
here takes them out again. The filter, its export and the ledger of what left are the person's own, and stay until they delete them.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedstyle.config import Config
from fedstyle.errors import ConfigError, FederationError, FedstyleError
from fedstyle.export import export, verify
from fedstyle.files import append_json, locked, private_folder, read_lines, write_bytes
from fedstyle.filter import Filter
from fedstyle.tables import plain, write

if TYPE_CHECKING:
    from fedstyle.flower.device import Device

PAUSE = 0.5
LEAVE = 5.0
"""Seconds for the answer to the last order to leave; when it does not, the server calls this device late, and nothing else is lost."""
STATE = (
    "private.safetensors",
    "losses.jsonl",
    "personal.jsonl",
    "standing.json",
    "conditions.json",
    "errors.log",
    "refusals.jsonl",
    "node.log",
    "sum.state",
    "sum.lock",
    "register.json",
)
"""Files that training and taking part leave; `session`, `base`, `flower` and `bin` are their folders."""
FOLDERS = ("session", "base", "flower", "bin")
OWN = ("net", "loss", "training", "method", "privacy", "export")
"""The tables of a run's configuration that are a device's own choice, too."""


@dataclass(frozen=True)
class Membership:
    """A device's home folder; see `flower.device` for the TOML in it, and what each call does above."""

    home: Path

    def __init__(self, home: str | Path) -> None:
        object.__setattr__(self, "home", Path(home).absolute())

    @classmethod
    def create(
        cls,
        home: str | Path,
        *,
        address: str,
        photos: str | Path,
        style: str | Path,
        heldout: str | Path = "",
        name: str = "",
        authority: str | Path = "authority.crt",
        operator: str | Path = "",
        config: Config | None = None,
        wire: str = "fp16",
        policy: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a home: `device.toml`, and a key whose public half, `home`/key.pub, goes to the operator. Nothing is sent.

        The home is for its owner alone (0700), whatever it was before: the updates, private parameters and logs in it tell of photos.
        `config` is the device's own choice of network, method, loss, training and export. Raises OutputError where a key stands already,
        ConfigError for what cannot be used.
        """
        from fedstyle.flower.credentials import make_device_key  # they come with the extra

        device, tables = cls(home), (config or Config()).tables()
        own = {"photos": str(photos), "style": str(style), "heldout": str(heldout), "name": name, "wire": wire}
        place = {"address": address, "authority": str(authority), "operator": str(operator)}
        parts = {"device": own, "federation": place, "policy": dict(policy or {}), **{table: tables[table] for table in OWN}}
        lines = (
            line for table, keys in parts.items() for line in ["", f"[{table}]", *(f"{k} = {write(plain(v))}" for k, v in keys.items())]
        )
        private_folder(device.home)
        device.home.chmod(0o700)
        make_device_key(device.home / "key")
        write_bytes(device.home / "device.toml", ("\n".join(lines).lstrip() + "\n").encode())
        device.settings()
        return device

    def settings(self) -> Device:
        """What `device.toml` says; raises ConfigError for what cannot be used."""
        from fedstyle.flower.device import Device

        return Device.load(self.home)

    def join(self, *, seconds: float = math.inf, watch: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
        """Take part until the federation sends its last base, then make the filter: see `finish` for what it gives.

        Gives None when the device was left, or when `seconds` are over before that base is there. `watch` gets a line for each thing that
        left the device. A SuperNode that ends although the SuperLink had let it in is started again, with the same key. Raises
        FederationError when the SuperLink does not know this device, or another process takes part with this home.
        """
        taken = FederationError(f"another process takes part with {self.home}: end that one first")
        with locked(self.home / ".joined", taken):
            arrived = self._take_part(time.monotonic() + seconds, watch)
        return self.finish() if arrived else None

    def _take_part(self, late: float, watch: Callable[[str], None]) -> bool:
        from fedstyle.flower.deployment import supernode, was_admitted
        from fedstyle.flower.device import last_base

        settings, told = self.settings(), len(self.ledger())
        place = settings.federation
        if not settings.path(place.key).exists():
            raise FederationError(f"{self.home} has no key: the device has left, or its key is elsewhere; create a new home")
        if last_base(self.home):
            return True
        log, key = self.home / "node.log", settings.path(place.key)
        while not last_base(self.home):
            before = log.stat().st_size if log.exists() else 0
            with supernode(self.home, place.address, settings.path(place.authority), key) as node:
                while not last_base(self.home) and node.poll() is None:
                    if not key.exists() or time.monotonic() > late:
                        return False
                    told = self._tell(told, watch)
                    time.sleep(PAUSE)
                if last_base(self.home):
                    time.sleep(LEAVE)
                elif not was_admitted(log, before):
                    raise FederationError(
                        f"the SuperNode ended: is this device registered, is the SuperLink up at {place.address}? See {self.home}/node.log"
                    )
                else:
                    watch("the SuperNode ended, and is started again")
        return True

    def _tell(self, told: int, watch: Callable[[str], None]) -> int:
        """Tell what left since line `told` of the ledger; gives the number of its lines."""
        ledger = self.ledger()
        for entry in ledger[told:]:
            watch(f"round {entry['round']}: {entry['kind']} {entry.get('code', '')} {entry['bytes']} bytes".replace("  ", " "))
        return len(ledger)

    def pause(self) -> None:
        """Refuse every order from now on; one that is being worked on is still answered."""
        write_bytes(self.home / "paused", b"")

    def resume(self) -> None:
        """Take part again."""
        (self.home / "paused").unlink(missing_ok=True)

    def conditions(self, **said: bool) -> None:
        """What the app knows of its device: `idle`, `charging`, `unmetered`; `policy.needs` in the TOML names those that must hold."""
        from fedstyle.flower.policy import set_conditions

        set_conditions(self.home, **said)

    def leave(self) -> None:
        """Destroy the device's key, and pause. The operator still has the public half, and can take it off: ask for it."""
        self.pause()
        (self.home / "sum.state").unlink(missing_ok=True)  # secrets of a secure sum that it will not finish
        with contextlib.suppress(ConfigError):
            self.settings().path(self.settings().federation.key).unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete all that training left here: private parameters, losses, session, bases, logs, and Flower's own state.

        Photos, style image, filter, export and ledger stay. Raises FederationError while a process takes part with this home.
        """
        with locked(self.home / ".joined", FederationError(f"a process takes part with {self.home}: pause or leave, and end it first")):
            for name in STATE:
                (self.home / name).unlink(missing_ok=True)
            for name in FOLDERS:
                shutil.rmtree(self.home / name, ignore_errors=True)

    def ledger(self) -> list[dict[str, Any]]:
        """A line for everything that left this device."""
        return read_lines(self.home / "ledger.jsonl")

    def finish(self) -> dict[str, Any]:
        """Make the filter from the last base, export it and run the exported file, all on this device.

        Gives the device's line of a summary: losses before and after, the filter and package, and how faithful that is. A home that was
        interrupted goes on from its session. Raises FederationError while there is no last base.
        """
        from fedstyle.flower.device import last_base

        settings = self.settings()
        base = last_base(self.home)
        if base is None:
            raise FederationError(f"{self.home} has no last base yet: join, and wait for the end of the rounds")
        client, config, judged = settings.client(), settings.config, settings.judged()
        kept = client.personalize(base, iterations=0).result()
        job = client.personalize(base, iterations=config.training.iterations, full=config.export.full, session=self.home / "session")
        lines = [progress.as_dict() for progress in job]
        filter = job.result()
        (self.home / "personal.jsonl").unlink(missing_ok=True)  # of a process that was interrupted
        append_json(self.home / "personal.jsonl", *lines)
        losses = {key: client.evaluate(model, judged) for key, model in (("before", base), ("rounds", kept), ("after", filter))}
        filter.save(self.home / "filter", replace=True)
        package, parity = self._export(filter, settings) if config.export.clients else (None, None)
        return {
            "id": self.home.name,
            "style": settings.name,
            "role": "seen",
            "strength": client.look.strength,
            "density": client.look.density,
            "photos": len(client.library),
            "heldout": len(judged) if settings.own.heldout else 0,
            "heldout_kind": "unseen photos" if settings.own.heldout else "training photos",
            "losses": losses,
            "improvement": 1 - losses["after"]["total"] / losses["before"]["total"],
            "filter": "filter",
            "filter_sha256": filter.sha256,
            "package": package,
            "parity": parity,
            "error": None,
        }

    def _export(self, filter: Filter, settings: Device) -> tuple[str, dict[str, Any]]:
        config, path = settings.config.export, self.home / f"{settings.name}.mlpackage"
        wishes = {key: value for key, value in (("author", config.author), ("license", config.license)) if value}
        if path.exists():  # of an interrupted finish
            shutil.rmtree(path)
        export(filter, path, size=config.size, precision=config.precision, metadata=wishes)
        parity = verify(path, filter)
        if not parity.faithful:
            raise FedstyleError(f"{path} is not the filter: {parity.problems[0]}")
        return path.name, parity.as_dict()
