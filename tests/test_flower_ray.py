import importlib.util
import os

import flower_fakes as fakes
import pytest

from fedstyle.errors import ConfigError, FederationError
from fedstyle.flower.engine import run_federation


def test_ray_gives_the_base_that_inline_gives(tmp_path, capfd):
    path = os.environ.get("PYTHONPATH")
    bases = {}
    for engine in ("inline", "ray"):
        rounds = []
        config = fakes.config(engine=engine, workers=2, cohort=3)
        bases[engine] = run_federation(config, fakes.small_base(), fakes.Fakes(tmp_path / engine), 4, on_round=rounds.append).sha256
        assert [now.replied for now in rounds] == [now.cohort for now in rounds]
        assert [(len(now.cohort), now.failures) for now in rounds] == [(3, {})] * 2
    assert bases["ray"] == bases["inline"]
    assert os.environ.get("PYTHONPATH") == path
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


@pytest.mark.soak
def test_a_dead_actor_fails_the_run_instead_of_shrinking_the_cohort(tmp_path):
    clients = fakes.Fakes(tmp_path, dead=(1,))
    with pytest.raises(FederationError, match=r"round 1: only \d of 4 clients replied \(.*lost \d\), and 4 must"):
        run_federation(fakes.config(engine="ray", workers=2), fakes.small_base(), clients, 4)


@pytest.mark.soak
def test_an_engine_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(FederationError, match="ray engine stopped") as caught:
        run_federation(fakes.config(engine="ray", workers=2), fakes.small_base(), fakes.Fakes(tmp_path), 4)
    assert "\n" not in str(caught.value)


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(ConfigError, match=r"pip install 'fedstyle\[ray\]'"):
        run_federation(fakes.config(engine="ray"), fakes.small_base(), fakes.Fakes(tmp_path), 4)
