import json
import re

from conftest import picture

from fedstyle.config import Config, Data, Export, Loss, Net, Server, Training
from fedstyle.report.roles import by_role
from fedstyle.report.run import Device, Run
from fedstyle.simulate import simulate


def device(role, improvement):
    return Device({"id": "0", "role": role, "improvement": improvement}, {}, (), (), (), None)


def cells(html):
    """The texts of a table, a list a row."""
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in html.split("<tr>")[1:]]


def test_gains_by_role_by_hand():
    devices = [device("seen", 0.5), device("seen", 0.3), device("unseen", 0.2), device("unseen", -0.1), device("late", None)]
    found = cells(by_role(Run({}, (), devices, {}, "")))
    assert found[1:] == [
        ["Seen: could be asked in every round", "2", "40 % lower", "30 % lower", "0 of 2"],
        ["Late: could be asked from a later round on", "1", "–", "–", "–"],
        ["Unseen: no round asked them", "2", "5 % lower", "10 % higher", "1 of 2"],
    ]


def test_a_run_in_which_all_have_one_role_has_no_such_table():
    assert by_role(Run({}, (), [device("seen", 0.5)] * 2, {}, "")) is None
    assert by_role(Run({}, (), [Device({"id": "0"}, {}, (), (), (), None)], {}, "")) is None  # a run of before there were roles
    assert by_role(Run({}, (), [], {}, "")) is None


def test_a_run_reports_unseen_late_and_flaky_clients_apart(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(10):
        picture(seed).save(tmp_path / "photos" / f"{seed}.png")
    picture(20).save(tmp_path / "style.png")
    config = Config(
        data=Data(str(tmp_path / "photos"), clients=5, styles=(str(tmp_path / "style.png"),), amounts="zipf", strength=(4, 6)),
        net=Net(width=4),
        loss=Loss(density=64),
        training=Training(size=32, batch=2, crops=2, iterations=1, device="cpu"),
        method={"name": "fedbn", "steps": 1},
        server=Server(rounds=3, unseen=1, late=1, late_round=3, flaky=1, flaky_rate=1.0, min_replies=0.3),
        export=Export(clients=False),
    )
    history = simulate(config, tmp_path / "run")
    clients = json.loads((tmp_path / "run" / "summary.json").read_text())["clients"]
    named = {client["role"]: client["id"] for client in clients if client["role"] != "seen"}
    assert sorted(client["role"] for client in clients) == ["flaky", "late", "seen", "seen", "unseen"]
    assert all(client["filter"] and client["improvement"] is not None and 4 <= client["strength"] <= 6 for client in clients)
    cohorts = [set(line["cohort"]) for line in history.rounds]
    assert [named["late"] in cohort for cohort in cohorts] == [False, False, True]
    assert [named["unseen"] in cohort for cohort in cohorts] == [False] * 3
    assert [list(line["failures"]) for line in history.rounds] == [[named["flaky"]]] * 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What personalisation gained on the base, by part in the rounds" in page
    assert "Unseen: no round asked them" in page
