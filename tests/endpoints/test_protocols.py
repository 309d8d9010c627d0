"""What each protocol sends and reads, and what the TOML file can say."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sapper.data.dataset import Data
from sapper.endpoints.endpoint import Terms
from sapper.endpoints.protocols import open_inference
from sapper.endpoints.service import BadAnswerError, Encoding, row_answers
from sapper.endpoints.settings import Secrets, Settings, read_settings
from sapper.errors import DataError, ModelError, RunError, SapperError, UsageError
from sapper.foreign import access
from sapper.models.loading import load_model
from servers import Handler, classifier, serving

X = np.random.default_rng(1).random((12, 1, 8, 8)).astype(np.float32)
DATA = Data("noise", torch.from_numpy(X), torch.arange(12) % 10, tuple(map(str, range(10))))


def described(folder: Path, *lines: str) -> str:
    path = folder / "service.toml"
    path.write_text("\n".join(lines))
    return str(path)


def probabilities(x: np.ndarray = X) -> np.ndarray:
    return classifier().predict_proba(x.reshape(len(x), -1).astype(np.float64))


def assert_scores(reference: str, **options: object) -> None:
    model = load_model(reference, **options)
    found = model.module(torch.from_numpy(X)).softmax(1)
    np.testing.assert_allclose(found.numpy(), probabilities(), atol=1e-5)


@pytest.mark.parametrize("path", ["/v2/models/m", "/v2/models/m/versions/2", "/v2/models/m/infer", "/invocations"])
def test_an_address_is_enough_with_the_data(path: str) -> None:
    with serving() as served:
        assert_scores(served.url + path, like=DATA)
        assert set(served.rows.values()) == {1}  # the first eight rows have shown what it answers, and are known


def test_any_json_service_by_its_file(tmp_path: Path) -> None:
    with serving() as served:
        body, row, path = '{"instances": [$rows], "raw": true}', "[$input]", "predictions[*].p"
        lines = (f'url = "{served.url}/any"', f"body = '{body}'", f"row = '{row}'", f'scores = "{path}"')
        assert_scores(described(tmp_path, *lines), like=DATA)
        assert_scores(described(tmp_path, *lines, "probabilities = true"))  # without data: all is said
        assert (served.total, len(served.rows)) == (24, 12)  # another file may mean another thing by the same input
        single = (
            f'url = "{served.url}/any"',
            """body = '{"image": $input}'""",
            'scores = "result.scores"',
            'encoding = "flat"',
        )
        before = served.requests
        assert_scores(described(tmp_path, *single, "rows = 8"), like=DATA)
        assert served.requests == before + 12


def test_labels_and_their_names(tmp_path: Path) -> None:
    names = [f"digit {number}" for number in range(10)]
    expected = probabilities().argmax(1)
    with serving(answer=lambda x: classifier().predict(x).tolist()) as served:
        for path in ("/invocations", "/v2/models/m"):
            model = load_model(served.url + path, like=DATA)
            answer = model.module(torch.from_numpy(X))
            assert (answer.argmax(1).numpy() == expected).all()
            assert set(answer.unique().tolist()) == {0.0, 1.0}
        served.answer = lambda x: [names[label] for label in classifier().predict(x)]
        lines = (f'url = "{served.url}/invocations"', f"classes = {json.dumps(names)}", 'labels = "predictions"')
        assert (load_model(described(tmp_path, *lines)).module(torch.from_numpy(X)).argmax(1).numpy() == expected).all()
        lines = (f'url = "{served.url}/v2/models/m"', f"classes = {json.dumps(names)}")
        model = load_model(described(tmp_path, *lines), like=DATA)
        assert (model.module(torch.from_numpy(X)).argmax(1).numpy() == expected).all()
        lines = (f'url = "{served.url}/v2/models/other"', "tries = 1")
        with pytest.raises(SapperError, match=r"'digit .' where one of 10 classes was expected, 1 times; .* name them"):
            load_model(described(tmp_path, *lines), like=DATA)


METADATA = {"name": "m", "platform": "sklearn", "versions": ["1"], "outputs": []}


@pytest.mark.parametrize(
    ("shape", "datatype", "sent"),
    [
        ([-1, 64], "FP32", [12, 64]),
        ([-1, -1], "FP64", [12, 64]),
        ([-1, 1, 8, 8], "FP32", [12, 1, 8, 8]),
        ([-1, 8, 8, 1], "FP16", [12, 8, 8, 1]),
        ([None], "FP32", [12, 1, 8, 8]),
    ],
)
def test_metadata_say_what_is_sent(shape: list, datatype: str, sent: list[int]) -> None:
    inputs = [{"name": "pixels", "datatype": datatype, "shape": shape}] if shape != [None] else []
    service = open_inference.service(
        Settings(url="http://host/v2/models/m"), lambda url: METADATA | {"inputs": inputs}, (1, 8, 8)
    )
    rows = [row for row in service.inputs(X) if row]
    (tensor,) = json.loads(service.request(rows))["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("pixels" if inputs else "input-0", datatype, sent)
    assert tensor["data"] == X.astype(np.float64).ravel().tolist()
    assert service.url == "http://host/v2/models/m/infer"


@pytest.mark.parametrize("code", [400, 500])
def test_where_metadata_name_no_inputs_the_error_says_how_to_send_rows_flat(code: int, tmp_path: Path) -> None:
    def refuse(handler: Handler) -> None:
        handler.reply(code, {"error": "expected 2 dimensions"})

    with serving(metadata=METADATA, rude=dict.fromkeys(range(1, 5), refuse)) as served:
        lines = (f'url = "{served.url}/v2/models/m"', "tries = 2", "backoff = 0")
        advice = r'metadata name no inputs, .* give a TOML file with this url and encoding = "flat"\.'
        with pytest.raises(RunError, match=rf"status {code} ?.* goes on where it was.*; its {advice}"):
            load_model(described(tmp_path, *lines), like=DATA)
        with pytest.raises(RunError, match=r"goes on where it was[^;]*\."):  # it is flat already
            load_model(described(tmp_path, *lines, 'encoding = "flat"'), like=DATA)
        served.rude.clear()
        assert_scores(described(tmp_path, *lines, 'encoding = "flat"'), like=DATA)


def test_channels_go_where_the_endpoint_wants_them_and_whole_numbers_are_rounded() -> None:
    x = np.random.default_rng(2).random((2, 3, 4, 5)).astype(np.float32)
    inputs = [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 5, 3]}]
    service = open_inference.service(
        Settings(url="http://host/v2/models/m", output="p"), lambda url: {"inputs": inputs}, (3, 4, 5)
    )
    asked = json.loads(service.request([row for row in service.inputs(x) if row]))
    assert asked["outputs"] == [{"name": "p"}]
    assert asked["inputs"][0]["data"] == np.rint(x.astype(np.float64) * 255).transpose(0, 2, 3, 1).ravel().tolist()
    with pytest.raises(ModelError, match=r"expected data of shape \(4, 5, 3\).* got \(3, 5, 5\)"):
        open_inference.service(Settings(url="http://host/v2/models/m"), lambda url: {"inputs": inputs}, (3, 5, 5))
    with pytest.raises(ModelError, match="one input, got image, image"):
        open_inference.service(Settings(url="http://host/v2/models/m"), lambda url: {"inputs": inputs * 2}, (3, 4, 5))
    text = [{"name": "t", "datatype": "BYTES", "shape": [-1]}]
    with pytest.raises(ModelError, match="takes numbers, got one that takes BYTES"):
        open_inference.service(Settings(url="http://host/v2/models/m"), lambda url: {"inputs": text}, (3, 4, 5))


def test_tensors_that_contradict_themselves_are_refused() -> None:
    read = open_inference.service(Settings(url="http://host/v2/models/m"), lambda url: None, (4,)).read
    good = {"outputs": [{"name": "p", "shape": [2, 3], "data": [[0, 1, 2], [3, 4, 5]]}]}
    assert read(good, 2) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    bad = (
        {}, [], {"outputs": []}, {"outputs": [{"shape": [2, 3]}]}, {"outputs": [{"shape": [3, 2], "data": [1] * 6}]},
        {"outputs": [{"shape": [2, 3], "data": [1] * 5}]}, {"outputs": [{"shape": [2, 3], "data": [1] * 8}]}, {"outputs": [3]},
    )  # fmt: skip
    for answer in bad:
        with pytest.raises(BadAnswerError):
            read(answer, 2)


def test_pictures_are_what_was_meant() -> None:
    grey, colour = X[:2], np.random.default_rng(3).random((2, 3, 6, 7)).astype(np.float32)
    for x in (grey, colour):
        for row, text in zip(x, Encoding("png")(x), strict=True):
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(json.loads(text)))))
            expected = np.rint(row.astype(np.float64) * 255).transpose(1, 2, 0)
            assert (picture.reshape(expected.shape) == expected).all()
    (text, _) = Encoding("jpeg")(colour)
    assert Image.open(io.BytesIO(base64.b64decode(json.loads(text)))).size == (7, 6)
    with pytest.raises(DataError, match="one or three channels"):
        Encoding("png")(np.zeros((1, 2, 4, 4)))
    assert (
        Encoding("flat", channels_last=True, scale=2)(colour)[0]
        == json.dumps(
            (colour[0].astype(np.float64) * 2).transpose(1, 2, 0).ravel().tolist(), separators=(",", ":")
        ).encode()
    )


def test_every_float_arrives_as_it_is() -> None:
    x = np.frombuffer(np.random.default_rng(4).bytes(4000), np.float32)
    x = x[np.isfinite(x)][None]
    assert (np.array(json.loads(Encoding("flat")(x)[0]), np.float32) == x[0]).all()
    service = open_inference.service(Settings(url="http://host/v2/models/m"), lambda url: None, (2,))
    assert service.inputs(np.array([[1, np.nan], [0, 1]])) == [None, b"0.0,1.0"]


def test_rows_of_every_kind() -> None:
    assert row_answers([[0.5, 0.5], [1, 0]], 2) == [[0.5, 0.5], [1.0, 0.0]]
    assert row_answers([3, 4.0, "cat", [5], ["dog"], [[0.1, 0.9]], 0.83, [0.2], [1.0]], 9) == [
        3, 4, "cat", 5, "dog", [0.1, 0.9], 0.83, 0.2, 1,
    ]  # fmt: skip
    for bad in ([1], {"a": 1}, None, [True, False], [1.5, 2], [[], 1], [[1, None], 1], [[1, float("inf")], 1]):
        with pytest.raises(BadAnswerError):
            row_answers(bad, 2)


def test_tokens_come_from_the_environment_and_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as served:
        lines = (
            f'url = "{served.url}/invocations?key=${{API_KEY}}"',
            "tries = 1",
            "[headers]",
            'X-Token = "t ${API_TOKEN}"',
        )
        with pytest.raises(UsageError, match="variable API_TOKEN, it is not set"):
            load_model(described(tmp_path, *lines), like=DATA)
        monkeypatch.setenv("API_TOKEN", "hush-1")
        monkeypatch.setenv("API_KEY", "hush-2")
        model = load_model(described(tmp_path, *lines), like=DATA)
        assert served.headers[0]["X-Token"] == "t hush-1"
        served.rude = {
            2: lambda handler: handler.reply(403, f"no {handler.headers['X-Token']} {handler.path}".encode())
        }
        with pytest.raises(RunError, match=r"403: 'no t \$\{API_TOKEN\} /invocations\?key=\$\{API_KEY\}'") as told:
            model.module(torch.from_numpy(X))
        assert "hush" not in repr(told.value)
        monkeypatch.setenv("SAPPER_TOKEN", "hush-3")
        load_model(f"{served.url}/v2/models/m", like=DATA)
        assert served.headers[-1]["Authorization"] == "Bearer hush-3"
    for path in (tmp_path / "cache").rglob("*"):
        assert path.is_dir() or b"hush" not in path.read_bytes()
    secrets = Secrets({"A": "abc"})
    assert secrets.hidden(secrets.filled("x ${A} y")) == "x ${A} y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "ftp://host/"', "expected an address like"),
        ('url = "http://user:pass@host/invocations"', "an address without a password"),
        ('url = "http://host/x"', "expected an address ending in /v2/models/NAME or /invocations"),
        ('url = "http://host/x"\nlabel = "a"', "unknown field `label`"),
        ('url = "http://host/x"\nrows = 0', "expected rows above 0"),
        ('url = "http://host/x"\nrows = "many"', "Expected `int`"),
        (
            'url = "http://host/x"\nprotocol = "grpc"',
            "unknown protocol 'grpc': known: mlflow, open_inference, template",
        ),
        ('url = "http://host/x"\nbody = "{$rows}"\nscores = "p"', "a body that is JSON once filled in"),
        ('url = "http://host/x"\nbody = "[1]"\nscores = "p"', r"\$rows or \$input once in the body"),
        ('url = "http://host/x"\nbody = "[$rows]"\nrow = "2"\nscores = "p"', r"\$input once in the row"),
        ('url = "http://host/x"\nbody = "[$rows]"\nscores = "p["', "a path in JMESPath"),
        ('url = "http://host/x"\nscores = "p"\nlabels = "p"', "labels or scores, got both"),
        ('url = "http://host/x"\n[headers]\nAuthorization = "Bearer abc"', "one that is written out"),
        ('url = "http://host/x"\n[headers]\nX-A = "a\\nb"', "a header of one line in Latin-1, got another one: 'X-A'"),
        ('url = "http://host/x"\n[headers]\n"X A" = "a"', "a header of one line in Latin-1, got another one: 'X A'"),
        ('url = "http://host/invocations"', "expected data, or a TOML file that says scores or labels"),
        ('url = "http://host/invocations"\nlabels = "p"', "expected the number of classes"),
        ("url =", "a TOML file that describes an endpoint"),
    ],
)
def test_a_file_that_does_not_fit_says_what_does(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SapperError, match=message) as told:
        load_model(described(tmp_path, text))
    assert "abc" not in str(told.value)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="without a password") as told:
        read_settings("https://me:hush@host/invocations")
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    "name", ["api_key", "apiKey", "access_token", "X-Amz-Signature", "sig", "code", "auth", "pass%77ord"]
)
def test_a_token_that_is_written_out_in_an_address_is_refused_and_not_repeated(name: str, tmp_path: Path) -> None:
    for url in (f"https://host/invocations?v=1&{name}=hush", f"https://host/v2/models/m?{name}=${{A}}hush#v"):
        for reference in (url, described(tmp_path, f'url = "{url}"')):
            with pytest.raises(UsageError, match=r"from the environment, as in '.*=\$\{NAME\}'.*written out") as told:
                read_settings(reference)
            assert "hush" not in str(told.value)
    for fine in (f"{name}=${{NAME}}", "author=me", "max_tokens=10", "encoding=x", "design=2", "keyword=a", ""):
        assert read_settings(f"https://host/invocations?{fine}").url.endswith(f"?{fine}")


@pytest.mark.parametrize("token", ["hu\nsh", "hu\r\nsh", "hu\0sh", "hush\x7f!", "hush€"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(UsageError, match="of one line in Latin-1 in the environment's variable SAPPER_TOKEN") as told:
        Secrets({"SAPPER_TOKEN": token}).filled("Bearer ${SAPPER_TOKEN}")
    assert not {"hu", "sh"} & set(str(told.value).split())
    assert "hush" not in str(told.value)


def test_a_token_may_end_in_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as served:
        monkeypatch.setenv("SAPPER_TOKEN", " hush-4\r\n")
        load_model(f"{served.url}/invocations", like=DATA)
        assert served.headers[-1]["Authorization"] == "Bearer hush-4"
        monkeypatch.setenv("SAPPER_TOKEN", "\n")
        load_model(f"{served.url}/v2/models/m", like=DATA)
        assert "Authorization" not in served.headers[-1]


def test_what_stands_before_the_endpoint_is_before_its_first_answers_too() -> None:
    small = Data("small", DATA.x[:, :, ::2, ::2].contiguous(), DATA.y, DATA.classes)
    with serving() as served:
        model = load_model(f"{served.url}/invocations", like=small, resize=(8, 8), mean=(0.1,), std=(0.9,))
        assert model.module(small.x).shape == (12, 10)
        assert (served.total, len(served.rows)) == (12, 12)


def test_what_the_settings_say_of_the_road_asks_nothing_anew(tmp_path: Path) -> None:
    with serving() as served:
        lines = [f'url = "{served.url}/invocations"']
        for road in ([], ["rows = 3", "in_flight = 2", "timeout = 5", "tries = 2", "backoff = 0"]):
            load_model(described(tmp_path, *lines, *road), like=DATA, terms=Terms("other" if road else "one"))
            assert served.total == 8
        model = load_model(described(tmp_path, *lines, "scale = 0.5"), like=DATA)
        assert served.total == 16
        assert model.digest != load_model(described(tmp_path, *lines), like=DATA).digest


PAIR = Data("two", DATA.x, DATA.y % 2, ("no", "yes"))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-8 * (x.reshape(len(x), -1).mean(1) - 0.5)))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("path", ["/v2/models/m", "/invocations"])
def test_one_probability_a_row_is_the_second_classs(path: str, nested: bool, tmp_path: Path) -> None:
    def answer(x: np.ndarray) -> list:
        found = sigmoid(x)
        found[:1] = 1.0  # a whole number, among others that are not
        return (found[:, None] if nested else found).tolist()

    with serving(answer=answer) as served:
        model = load_model(served.url + path, like=PAIR)
        assert (model.classes, access(model.module)) == (2, "scores")
        found = model.module(PAIR.x).softmax(1)[1:8].double().numpy()
        np.testing.assert_allclose(found[:, 1], sigmoid(X)[1:8], atol=1e-6)
        with pytest.raises(RunError, match="2 classes where the data's labels need 10"):
            load_model(described(tmp_path, f'url = "{served.url}{path}"', "tries = 1"), like=DATA)


def test_whole_probabilities_are_such_where_the_file_says_so(tmp_path: Path) -> None:
    with serving(answer=lambda x: sigmoid(x).round().tolist()) as served:
        url = f'url = "{served.url}/invocations"'
        assert access(load_model(described(tmp_path, url), like=PAIR).module) == "labels"
        single = load_model(described(tmp_path, url, "probabilities = true"), like=PAIR)
        assert access(single.module) == "scores"
        assert (single.module(PAIR.x).argmax(1).numpy() == sigmoid(X).round()).all()
        with pytest.raises(ModelError, match=r"two classes, as one probability a row is the second's, got 3"):
            load_model(described(tmp_path, url, "probabilities = true", "classes = 3"), like=PAIR)


def test_a_template_with_one_probability_a_row_needs_no_data(tmp_path: Path) -> None:
    template = ("body = '{\"instances\": [$rows]}'", 'scores = "predictions[*].p"', "probabilities = true")
    with serving(answer=lambda x: sigmoid(x).tolist()) as served:
        model = load_model(described(tmp_path, f'url = "{served.url}/any"', *template))
        np.testing.assert_allclose(model.module(PAIR.x).softmax(1)[:, 1].double().numpy(), sigmoid(X), atol=1e-6)


def test_one_kind_of_answer_is_kept_to_and_what_to_write_is_said(tmp_path: Path) -> None:
    answers = [
        lambda x: sigmoid(x).round().tolist(),
        lambda x: sigmoid(x).tolist(),
        lambda x: (3 * sigmoid(x)).tolist(),
    ]
    with serving(answer=answers[0]) as served:
        road = (f'url = "{served.url}/invocations"', "tries = 1")
        labels = load_model(described(tmp_path, *road), like=PAIR)
        single = load_model(described(tmp_path, *road, "probabilities = true"), like=PAIR)
        served.answer = answers[1]
        with pytest.raises(RunError, match=r"a label was expected.* if it is the probability .* probabilities = true"):
            labels.module(PAIR.x)
        served.answer = lambda x: [[0.5, 0.5]] * len(x)
        with pytest.raises(RunError, match="2 scores where one probability was expected"):
            single.module(PAIR.x)
        served.answer = answers[2]
        with pytest.raises(RunError, match="one number a row is a label, or a probability from 0 to 1"):
            single.module(PAIR.x)
