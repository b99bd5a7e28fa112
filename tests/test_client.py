import dataclasses
import json
import random
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fedstyle import Base, Client, Filter, Style, params
from fedstyle.config import Loss, Privacy, Training
from fedstyle.errors import BaseError, Cancelled, ConfigError, ParamsError, PhotoError, SessionError, StyleError
from fedstyle.methods import make_method
from fedstyle.net import is_norm
from fedstyle.perceptual import load_features
from fedstyle.personal import ModelParameters, train
from fedstyle.photos import Photos
from fedstyle.prediction import is_predictor, read_style
from fedstyle.session import Session, SessionParameters
from fedstyle.style import fitting
from fedstyle.training import derive

PROCESSING = ("scale-fill", "scale-fit", "centre-crop")
METHOD = make_method({"name": "fedbn", "steps": 2})


@pytest.fixture
def client(tmp_path, photo_folder, style_image, quick):
    """A maker of clients; each name is a home of its own."""

    def client(home="home", **options):
        settings = {"method": METHOD, "training": quick, **options}
        return Client(home and tmp_path / home, settings.pop("photos", photo_folder), Style(style_image, density=64), **settings)

    return client


def state(client):
    """What stays: without the last update, which left."""
    path = client.folder / "private.safetensors"
    return {name: value for name, value in params.unseal(params.load(path), path).items() if name.startswith(("net/", "memory/"))}


def plain(facts):
    """As JSON gives them back."""
    return json.loads(json.dumps(facts))


def norm(update):
    return float(torch.cat([value.double().flatten() for value in update.delta.values()]).norm())


# ---------------------------------------------------------------------------------------------------------------- a client


def test_a_home_that_training_makes_is_its_owners_alone(client, base):
    made = client("new/home")
    made.fit(base)
    assert made.folder.stat().st_mode & 0o777 == 0o700


def test_photos_and_style_may_be_paths_or_values(photo_folder, style_image, tmp_path, quick):
    style_image.save(tmp_path / "style.png")
    paths = Client(str(tmp_path / "home"), str(photo_folder), str(tmp_path / "style.png"), training=quick)
    values = Client(tmp_path / "home", Photos.open(photo_folder), Style(style_image), training=quick)
    assert paths.folder == values.folder == tmp_path / "home"
    assert paths.library == values.library
    assert paths.look.digest() == values.look.digest()
    assert Client(None, photo_folder, tmp_path / "style.png", training=quick).folder is None
    assert not (tmp_path / "home").exists()  # nothing is written before there is something to keep


def test_what_is_missing_is_an_error_at_once(tmp_path, photo_folder, style_image, quick):
    with pytest.raises(PhotoError, match="does not exist"):
        Client(tmp_path, tmp_path / "nowhere", Style(style_image), training=quick)
    with pytest.raises(StyleError, match=r"nowhere.png"):
        Client(tmp_path, photo_folder, tmp_path / "nowhere.png", training=quick)
    with pytest.raises(TypeError, match="positional"):
        Client(tmp_path, photo_folder, Style(style_image), METHOD)


def test_the_objective_is_what_the_device_was_configured_with(photo_folder, style_image, quick):
    loss = Loss(content=2.0, style=3.0, layers=(1.0, 0.0, 2.0), total_variation=0.5)
    objective = Client(None, photo_folder, Style(style_image, strength=6, density=64), loss=loss, training=quick).objective()
    assert (objective.content_weight, objective.layers, objective.tv_weight) == (2.0, (1.0, 0.0, 2.0), 0.5)
    assert objective.style_weight == pytest.approx(3.0 * 2.0)
    assert objective.features is load_features("tiny")


# ------------------------------------------------------------------------------------------------------------------- a round


def test_an_update_is_the_change_of_exactly_the_shared_names(client, base):
    device = client()
    update = device.fit(base)
    assert set(update.delta) == {name for name in base.weights if not is_norm(name)}
    assert {value.dtype for value in update.delta.values()} == {torch.float32}
    assert list(vars(update)) == ["delta"]  # no count of photos, no loss, no name
    # Shared weights after the round = base + update; the private file holds the rest and no shared weight.
    kept = state(device)
    assert {name.removeprefix("net/") for name in kept if name.startswith("net/")} == {name for name in base.weights if is_norm(name)}
    assert base.sha256 == Base.new("cnnLite", width=4).sha256  # the base itself is not changed


def test_private_norms_stay_at_home_and_are_used_in_the_next_round(client, base):
    device = client()
    device.fit(base)
    first = {name: value for name, value in state(device).items() if name.startswith("net/")}
    assert any(not torch.equal(value, base.weights[name.removeprefix("net/")]) for name, value in first.items())
    # Were the second round to begin with the base's norms, its losses would be those of a fresh client's second round.
    fresh = client("fresh")
    device.fit(base, round=2)
    fresh.fit(base, round=2)
    losses = [[json.loads(line) for line in (it.folder / "losses.jsonl").read_text().splitlines()] for it in (device, fresh)]
    assert [line["round"] for line in losses[0]] == [1, 1, 2, 2]  # without a round, the one after the base's
    assert losses[0][2]["total"] != losses[1][0]["total"]
    # The first iteration's loss of that round is the one of base and kept norms together.
    whole = base.weights | {name.removeprefix("net/"): value for name, value in first.items()}
    (start,) = [
        progress for progress in METHOD.fit(Base(base.arch, base.padding, whole).net(), _task(device, 2), {}) if progress.iteration == 1
    ]
    assert start.total == losses[0][2]["total"]


def _task(device, number):
    return device.task(derive(device.plan.seed, "round", number))


@pytest.mark.parametrize("keep", [True, False])
def test_moments_stay_at_home_from_round_to_round(client, base, keep):
    device = client(method=make_method({"name": "fedbn", "steps": 2, "keep_moments": keep}))
    for number in range(3):
        device.fit(base, round=number)
    kept = state(device)
    assert int(kept["memory/adam/step"]) == (6 if keep else 2)
    moments = {name.removeprefix("memory/adam/exp_avg/") for name in kept if name.startswith("memory/adam/exp_avg/")}
    assert moments == set(base.weights)


def test_a_round_that_is_asked_for_again_gives_the_same_update_and_changes_nothing(client, base):
    device = client()
    device.fit(base, round=1)
    next_base = dataclasses.replace(base, weights={name: value + 0.01 for name, value in base.weights.items()})
    update = device.fit(next_base, round=2)
    home = {path.name: path.read_bytes() for path in device.folder.iterdir()}
    for again in (device, client()):  # also after its process ended
        assert params.fingerprint(again.fit(next_base, round=2).delta) == params.fingerprint(update.delta)
    assert {path.name: path.read_bytes() for path in device.folder.iterdir()} == home
    moved = params.fingerprint(state(device))
    for others in ({"round": 3}, {"round": 2, "proximal": 1.0}):  # nothing else is that round
        device.fit(next_base, **others)
        assert params.fingerprint(state(device)) != moved
    device.fit(base, round=2)
    client(privacy=Privacy(clip=0.01)).fit(base, round=2)
    assert [json.loads(line)["round"] for line in (device.folder / "losses.jsonl").read_text().splitlines()][::2] == [1, 2, 3, 2, 2, 2]


def test_an_update_is_clipped_as_the_device_says(client, base):
    whole, clipped = client("a").fit(base), client("b", privacy=Privacy(clip=0.01)).fit(base)
    assert norm(whole) > 0.01
    assert norm(clipped) == pytest.approx(0.01, rel=1e-5)
    for name, value in clipped.delta.items():
        torch.testing.assert_close(value, whole.delta[name] * (0.01 / norm(whole)), rtol=1e-4, atol=1e-9)
    assert params.fingerprint(state(client("a"))) == params.fingerprint(state(client("b")))  # what stays is not clipped
    loose = client("c", privacy=Privacy(clip=1000.0)).fit(base)
    assert params.fingerprint(loose.delta) == params.fingerprint(whole.delta)


def test_a_server_may_ask_for_a_proximal_term(client, base):
    methods = [make_method({"name": name, "steps": 2}) for name in ("fedbn", "local")]
    for method in methods:
        plain, pulled = (client(f"{type(method).__name__} {mu}", method=method).fit(base, proximal=mu) for mu in (0.0, 10.0))
        assert (params.fingerprint(plain.delta) == params.fingerprint(pulled.delta)) == (type(method).__name__ == "Local")


def test_a_round_writes_to_its_home_and_nowhere_else(client, base, photo_folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in photo_folder.iterdir()}
    device = client()
    device.fit(base)
    assert sorted(path.name for path in device.folder.iterdir()) == ["losses.jsonl", "private.safetensors"]  # the wire keeps the ledger
    assert {path: path.stat().st_mtime_ns for path in photo_folder.iterdir()} == before
    keepless = client(None)
    keepless.fit(base)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_base_that_does_not_fit_what_is_kept_is_an_error(client, base):
    wider = Base.new("cnnLite", width=8)
    for name in ("fedbn", "fedavg", "local"):
        device = client(name, method=make_method({"name": name, "steps": 1}))
        device.fit(base)
        with pytest.raises(ParamsError, match=r"ha(s|ve) shape"):
            device.fit(wider)
    moved = client("local")  # trained by another method before, whose private part was everything
    with pytest.raises(ParamsError, match=r"the private parameters in .*private.safetensors: .* tensors are not expected"):
        moved.fit(base)
    with pytest.raises(ParamsError, match=r"the private parameters in .*private.safetensors: .* tensors are not expected"):
        moved.personalize(base)


def test_a_corrupt_private_file_is_an_error_and_stays(client, base):
    device = client()
    device.fit(base)
    file = device.folder / "private.safetensors"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for content, says in [
        (bytes(flipped), r"private.safetensors was altered or damaged: .*: remove it to start this client afresh"),
        (whole[:-5], r"private.safetensors is no safetensors file, or a damaged one .*: remove it to start this client afresh"),
        (b"", "no safetensors file"),
    ]:
        file.write_bytes(content)
        for act in (lambda: device.fit(base, round=1), lambda: device.personalize(base)):
            with pytest.raises(ParamsError, match=says):
                act()
        assert file.read_bytes() == content
    file.write_bytes(whole)
    params.save(params.seal(state(device) | {"strange": torch.zeros(1)}), file)
    with pytest.raises(ParamsError, match="holds tensors that fedstyle did not write: remove it to start this client afresh"):
        device.fit(base, round=1)
    params.save(params.seal({"net/down1.norm.bias": torch.full((4,), float("nan"))}), file)
    with pytest.raises(ParamsError):
        device.fit(base, round=1)


# ----------------------------------------------------------------------------------------------------------- personalisation


def test_a_filter_is_made_from_base_and_home(client, base):
    device = client()
    device.fit(base)
    kept = {name.removeprefix("net/"): value for name, value in state(device).items() if name.startswith("net/")}
    at_once = device.personalize(base, iterations=0).result()
    assert isinstance(at_once, Filter)
    assert at_once.sha256 == params.fingerprint({**base.weights, **kept})
    filter = device.personalize(base, iterations=2).result()
    assert all(torch.equal(value, base.weights[name]) for name, value in filter.weights.items() if not is_norm(name))
    assert device.personalize(base, iterations=2, full=True).result().sha256 != filter.sha256
    assert client(None).personalize(base, iterations=2).result().sha256 != filter.sha256  # it has no home to begin from


def test_personalisation_is_deterministic_whatever_came_before(client, base, tmp_path):
    device = client()
    device.fit(base)
    expected = device.personalize(base, iterations=2).result().sha256
    # The order in which the file lists its tensors, and what else was asked of a client, do not count.
    content = list(state(device).items())
    random.Random(1).shuffle(content)
    other = client("other")
    other.folder.mkdir()
    save_file(params.seal(dict(content)), other.folder / "private.safetensors")
    other.evaluate(base, other.library)
    torch.rand(7)
    assert other.personalize(base, iterations=2).result().sha256 == expected
    assert device.personalize(base, iterations=2).result().sha256 == expected
    assert params.fingerprint(state(device)) == params.fingerprint(dict(content))  # and it leaves the home as it was


def test_a_client_that_was_given_no_training_personalises_as_the_base_advises(client, base):
    advice = {"rate": 1e-3, "norm_rate": 4e-2, "warmup": 1}
    advising = dataclasses.replace(base, record={"personal": advice})
    free = client(None, training=None, photos=client().library)
    assert free.plan == Training()  # which rounds keep to, whatever a base advises

    def sha256(device):
        return device.personalize(advising, iterations=2).result().sha256

    assert sha256(free) == sha256(client(None, training=Training(**advice)))
    assert sha256(free) != sha256(client(None, training=Training()))  # who asks for rates gets them
    assert free.identity(advising, {}, full=False)["training"]["norm_rate"] == 4e-2


def test_a_personalisation_lowers_the_loss(client, base):
    device = client()
    filter = device.personalize(base, iterations=20, full=True).result()
    before, after = (device.evaluate(model, device.library) for model in (base, filter))
    assert after["total"] < 0.9 * before["total"]
    assert client(None).evaluate(base, device.library) == before


def test_the_facts_of_a_filter_name_no_person_and_no_place(client, base, tmp_path, photo_folder):
    filter = client().personalize(base, iterations=2, facts={"holdout": 1}).result()
    assert filter.facts["base_sha256"] == base.sha256
    picked = {key: filter.facts[key] for key in ("strength", "density", "method", "trained", "iterations", "holdout")}
    assert picked == {"strength": 5, "density": 64, "method": "fedbn", "trained": "private", "iterations": 2, "holdout": 1}
    text = json.dumps(filter.facts)
    assert str(tmp_path) not in text
    assert str(photo_folder) not in text
    assert filter.facts["loss"]["density"] == 64
    filter.save(tmp_path / "filter")
    assert Filter.load(tmp_path / "filter").sha256 == filter.sha256


def test_a_session_knows_its_inputs(client, base, tmp_path, photo_folder, style_image, quick):
    session = str(tmp_path / "session")
    whole = client().personalize(base, iterations=3, session=session).result()
    assert client("other").personalize(base, iterations=3, session=session).result().sha256 == whole.sha256
    assert client().personalize(base, iterations=4, session=session).result().facts["iterations"] == 4
    fewer = Photos.open(sorted(photo_folder.iterdir())[:2])
    others = [
        (client(photos=fewer), base, {}),
        (client(loss=Loss(style=2.0)), base, {}),
        (client(method=make_method({"name": "fedbn", "steps": 3})), base, {}),
        (client(method=make_method({"name": "fedavg", "steps": 2})), base, {}),
        (Client(None, photo_folder, Style(style_image, strength=6, density=64), method=METHOD, training=quick), base, {}),
        (client(), Base.new("cnnLite", width=4, seed=1), {}),
        (client(), base, {"full": True}),
    ]
    for device, start, options in others:
        with pytest.raises(SessionError, match="begun with other photos, style, base or settings"):
            device.personalize(start, iterations=3, session=session, **options).result()
    device = client()
    device.fit(base)  # another home is another start
    with pytest.raises(SessionError, match="begun with other"):
        device.personalize(base, iterations=3, session=session).result()


def test_a_validation_photo_is_shown_under_every_checkpoint(client, base, tmp_path):
    device = client()
    photo = device.library.load(0)
    job = device.personalize(base, iterations=2, session=tmp_path / "session", validation=photo)
    filter = job.result()
    with Image.open(job.checkpoints[-1].preview) as shown:
        assert shown.tobytes() == filter(photo).tobytes()


def test_a_validation_photo_may_be_a_path_and_is_shown_small(client, base, tmp_path):
    Image.new("RGB", (3000, 600), "teal").save(tmp_path / "wide.png")
    job = client().personalize(base, iterations=1, session=tmp_path / "session", validation=tmp_path / "wide.png")
    job.result()
    with Image.open(job.checkpoints[0].preview) as shown:
        assert shown.size == (1024, 205)
    with pytest.raises(PhotoError, match=r"nowhere.png"):
        client().personalize(base, validation=tmp_path / "nowhere.png")


def test_iterations_may_be_a_mode_and_a_session_bounds_them(client, base, tmp_path):
    device = client(None)
    assert device.personalize(base).progress.iterations == 100
    assert [device.personalize(base, iterations=mode).progress.iterations for mode in ("quick", "best")] == [25, 500]
    assert device.personalize(base, iterations="best", session=SessionParameters(iterations=30)).progress.iterations == 30
    assert device.personalize(base, iterations=2000, session=tmp_path / "session").progress.iterations == 2000
    assert device.personalize(base, iterations=2000, session=SessionParameters(tmp_path)).progress.iterations == 1000
    with pytest.raises(ConfigError, match="iterations = 'fast'"):
        device.personalize(base, iterations="fast")


def test_photos_are_read_when_the_job_is_driven_and_not_before(client, base, monkeypatch):
    cut = []
    monkeypatch.setattr(Photos, "crops", lambda *_, **__: cut.append(1) or 1 / 0)
    job = client().personalize(base, iterations=1)
    assert not cut
    with pytest.raises(ZeroDivisionError):
        job.result()


@pytest.mark.parametrize("full", [False, True])
def test_any_checkpoint_is_a_filter_from_the_session_folder_alone(client, predictive, tmp_path, full):
    folder = tmp_path / "session"
    job = client().personalize(
        predictive, iterations=5, full=full, session=SessionParameters(folder, checkpoint_interval=2), facts={"seed": 3}
    )
    last = job.result()
    code = "import sys; from fedstyle import Session; print(*(one.filter().sha256 for one in Session(sys.argv[1]).checkpoints()))"
    said = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout.split()
    points = Session(folder).checkpoints()
    assert [one.iteration for one in points] == [2, 4, 5]
    filters = [one.filter() for one in points]
    assert [filter.sha256 for filter in filters] == said
    for filter in filters[:2]:  # as if the job had ended there
        there = client().personalize(predictive, iterations=filter.facts["iterations"], full=full, facts={"seed": 3}).result()
        assert (filter.sha256, filter.facts, filter.arch, filter.padding) == (there.sha256, plain(there.facts), there.arch, there.padding)
    assert (filters[2].sha256, filters[2].facts) == (last.sha256, plain(last.facts))
    filters[0].save(tmp_path / "one")
    assert Filter.load(tmp_path / "one").sha256 == filters[0].sha256
    (folder / "start.safetensors").write_bytes(b"")
    with pytest.raises(SessionError, match=r"the checkpoint .*checkpoint-000002.safetensors gives no filter: .*start.safetensors"):
        points[0].filter()
    assert "start.safetensors" not in json.dumps(last.facts)


def test_a_checkpoint_of_private_norms_is_small(client, predictive, tmp_path):
    job = client().personalize(predictive, iterations=1, session=tmp_path / "session")
    job.result()
    whole, small = ((tmp_path / "session" / name).stat().st_size for name in ("start.safetensors", "checkpoint-000001.safetensors"))
    norms = sum(value.numel() for name, value in predictive.transform().items() if is_norm(name))
    assert small < 3 * 4 * norms + 9000 < whole + 9000  # weights and two moments in fp32, and a header


@pytest.mark.parametrize("processing", PROCESSING)
def test_the_processing_of_photos_belongs_to_the_training_and_the_session(client, base, quick, tmp_path, photo_folder, processing):
    device = client(training=dataclasses.replace(quick, processing=processing))
    crops = Photos.open(photo_folder).crops(32, 4, 0, processing=processing)
    assert torch.equal(device.task(0).content.crops, crops)
    plain = client().personalize(base, iterations=2, session=tmp_path / "session").result()
    job = device.personalize(base, iterations=2, session=tmp_path / "session")
    if processing == "scale-fill":
        assert job.result().sha256 == plain.sha256
        return
    with pytest.raises(SessionError, match="begun with other"):
        job.result()
    assert device.personalize(base, iterations=2).result().sha256 != plain.sha256
    same = device.evaluate(base, device.library) == client().evaluate(base, device.library)
    assert same == (processing == "centre-crop")  # what judges a filter is the middle of a photo in any case


def test_there_are_three_ways_of_processing_everywhere():
    from fedstyle import config, cropping

    assert set(config.PROCESSING) == set(cropping.PROCESSING) == set(PROCESSING)
    with pytest.raises(ConfigError, match=r"training.processing = 'stretch': choose one of scale-fill, scale-fit, centre-crop"):
        Training(processing="stretch")


# --------------------------------------------------------------------------------------------------- a strength chosen by itself


def test_a_strength_is_chosen_for_the_style_and_the_photos(client, predictive, style_image, photo_folder, quick, tmp_path):
    device = Client(None, photo_folder, Style(style_image, strength=None, density=64), method=METHOD, training=quick)
    content = device.evaluate(predictive, device.library)["content"]
    chosen = device.choose_strength(predictive)
    assert chosen == Client(None, photo_folder, Style(style_image, density=64), method=METHOD, training=quick).choose_strength(predictive)
    assert abs(chosen - fitting(content)) <= 1  # crops here, whole photos there
    filter = device.personalize(predictive, iterations=2, session=tmp_path / "session").result()
    given = Client(None, photo_folder, Style(style_image, strength=chosen, density=64), method=METHOD, training=quick)
    same = given.personalize(predictive, iterations=2).result()
    assert (filter.sha256, filter.facts) == (same.sha256, same.facts)
    assert filter.facts["strength"] == filter.facts["loss"]["strength"] == chosen
    again = device.personalize(predictive, iterations=2, session=tmp_path / "session")
    assert list(again) == []
    assert again.result().facts["strength"] == chosen
    torch.set_num_threads(2)
    try:
        assert device.choose_strength(predictive) == chosen
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_base_that_knows_no_style_gives_5_and_a_round_takes_it_as_5(style_image, photo_folder, quick, base, tmp_path):
    clients = [Client(None, photo_folder, Style(style_image, strength=k, density=64), method=METHOD, training=quick) for k in (None, 5)]
    assert clients[0].choose_strength(base) == 5
    filters = [one.personalize(base, iterations=1).result() for one in clients]
    assert filters[0].sha256 == filters[1].sha256
    updates = [one.fit(base).delta for one in clients]
    assert params.fingerprint(updates[0]) == params.fingerprint(updates[1])


# ------------------------------------------------------------------------------------------------------- Create ML's one call


def test_train_is_personalize_in_one_call(shipped, style_image, photo_folder, tmp_path):
    style_image.save(tmp_path / "style.png")
    wishes = ModelParameters(strength=6, density=64, iterations=2, processing="centre-crop", validation=photo_folder / "0.png")
    parts = SessionParameters(tmp_path / "session", report_interval=1, checkpoint_interval=1)
    job = train(photo_folder, tmp_path / "style.png", wishes, parts)
    assert [type(event).__name__ for event in job.stream()] == ["Progress", "Checkpoint"] * 2
    training = Training.for_base(shipped.record, processing="centre-crop")
    client = Client(None, photo_folder, Style(style_image, strength=6, density=64), training=training)
    assert job.result().sha256 == client.personalize(shipped, iterations=2).result().sha256
    assert all(point.preview for point in job.checkpoints)
    listed = [str(path) for path in client.library.paths]  # a list of files, as a picker of photos gives it, is the same library
    more = train(listed, style_image, dataclasses.replace(wishes, iterations=3), parts)
    assert [progress.iteration for progress in more] == [3]


def test_the_defaults_of_train(shipped, style_image, photo_folder):
    wishes = ModelParameters()
    assert (wishes.algorithm, wishes.strength, wishes.density, wishes.iterations) == ("cnnLite", None, 256, "standard")
    assert (wishes.validation, wishes.processing) == (None, "scale-fill")
    job = train(photo_folder, style_image)
    assert (job.progress.iterations, job.session) == (100, None)


def test_what_train_cannot_use_is_an_error_at_once(shipped, base, style_image, photo_folder):
    for wrong, says in [
        ({"algorithm": "gan"}, "algorithm = 'gan'"),
        ({"processing": "no"}, "processing = 'no'"),
        ({"iterations": "x"}, "'x'"),
    ]:
        with pytest.raises(ConfigError, match=says):
            ModelParameters(**wrong)
    with pytest.raises(StyleError, match="style strength 11"):
        train(photo_folder, style_image, ModelParameters(strength=11))
    with pytest.raises(BaseError, match="the base is a cnnLite, the parameters ask for a cnn"):
        train(photo_folder, style_image, ModelParameters(algorithm="cnn"), base=base)
    with pytest.raises(BaseError, match="fedstyle carries no base for 'cnn'"):
        train(photo_folder, style_image, ModelParameters(algorithm="cnn"))


def test_an_unknown_feature_network_is_an_error(client, base):
    with pytest.raises(ConfigError, match="unknown feature network 'resnet'"):
        client(loss=Loss(features="resnet")).fit(base)


# --------------------------------------------------------------------------------------------- from a base that predicts norms


def predicted_norms(device, predictive):
    """By hand: the norms that the predictor gives for what tiny sees in the style image and in parts of it."""
    code = read_style(load_features("tiny"), device.look.pixels)
    return {name: value for name, value in predictive.transform(code).items() if is_norm(name)}


def test_the_base_is_a_filter_at_once(client, predictive, base):
    device = client()
    norms = predicted_norms(device, predictive)
    filter = device.predict(predictive)
    assert isinstance(filter, Filter)
    assert set(filter.weights) == set(base.weights)
    for name, value in filter.weights.items():
        assert torch.equal(value, norms.get(name, predictive.weights[name])), name
    assert any(not torch.equal(value, predictive.weights[name]) for name, value in norms.items())
    assert device.predict(base).sha256 == base.sha256  # a base that predicts nothing is shown as it is
    assert device.evaluate(predictive, device.library) == device.evaluate(filter, device.library)
    assert not device.folder.exists()


def test_a_personalisation_starts_from_the_predicted_norms(client, predictive):
    device = client()
    assert device.personalize(predictive, iterations=0).result().sha256 == device.predict(predictive).sha256
    filter = device.personalize(predictive, iterations=2).result()
    assert all(torch.equal(value, predictive.weights[name]) for name, value in filter.weights.items() if not is_norm(name))
    assert not [name for name in filter.weights if is_predictor(name)]
    assert filter.facts["base_sha256"] == predictive.sha256
    full = device.personalize(predictive, iterations=1, full=True).result()
    assert not torch.equal(full.weights["down1.conv.weight"], predictive.weights["down1.conv.weight"])


def test_the_first_round_starts_from_the_predicted_norms_and_sends_neither_them_nor_the_predictor(client, predictive):
    device = client()
    start = Base(predictive.arch, predictive.padding, {**predictive.transform(), **predicted_norms(device, predictive)})
    first = next(iter(METHOD.fit(start.net(), _task(device, 4), {})))
    update = device.fit(predictive)  # the record says round 3, so this is the fourth
    assert json.loads((device.folder / "losses.jsonl").read_text().splitlines()[0])["total"] == first.total
    assert set(update.delta) == {name for name in predictive.weights if not is_norm(name) and not is_predictor(name)}
    kept = state(device)
    assert {name.removeprefix("net/") for name in kept if name.startswith("net/")} == {name for name in start.weights if is_norm(name)}
    assert not [name for name in kept if "predictor" in name]
    # From then on its own norms count, and no longer the predicted ones.
    own = {name.removeprefix("net/"): value for name, value in kept.items() if name.startswith("net/")}
    at_once = device.personalize(predictive, iterations=0).result()
    assert at_once.sha256 == params.fingerprint({**predictive.transform(), **own}) != device.predict(predictive).sha256


def test_a_session_does_not_depend_on_the_last_bits_of_predicted_norms(client, predictive, tmp_path, monkeypatch):
    session = tmp_path / "session"
    device = client(None)
    whole = device.personalize(predictive, iterations=3).result()
    job = device.personalize(predictive, iterations=3, session=session)
    next(iter(job))
    job.cancel()
    with pytest.raises(Cancelled):
        job.result()
    job.close()
    # Another number of threads may give other bits; the checkpoint has those that it began with.
    monkeypatch.setattr("fedstyle.client.read_style", lambda *read: read_style(*read) + 1e-6)
    other = client(None)
    assert other.predict(predictive).sha256 != device.predict(predictive).sha256
    assert other.personalize(predictive, iterations=3, session=session).result().sha256 == whole.sha256


def test_the_rates_that_a_base_advises_are_taken_by_who_asks_for_them(client, predictive, quick):
    record = {"personal": {"rate": 5e-3, "norm_rate": 4e-2, "warmup": 0}}
    asked = Training.for_base(record, size=32, crops=4, batch=2, device="cpu")
    assert asked == dataclasses.replace(quick, rate=5e-3, norm_rate=4e-2, warmup=0)
    filters = [client(None, training=training).personalize(predictive, iterations=1).result() for training in (quick, asked)]
    start = client(None).predict(predictive).weights["up1.norm.bias"]
    # Adam's first step is as long as its rate: 0.01 over a warm-up of 2, that is 0.005, and 0.04 at once.
    steps = [float((filter.weights["up1.norm.bias"] - start).abs().median()) for filter in filters]
    assert steps == pytest.approx([0.005, 0.04], rel=1e-2)
