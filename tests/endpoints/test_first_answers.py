"""What an endpoint is taken for by its first answers, when these are wrong: no wrong answer speaks for it afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sapper.data.dataset import Data
from sapper.endpoints.endpoint import Endpoint, Terms
from sapper.errors import ModelError, RunError
from sapper.models.loading import load_model
from sapper.models.remote import endpoint_of
from servers import Handler, Served, classifier, serving

X = np.random.default_rng(1).random((12, 1, 8, 8)).astype(np.float32)
DATA = Data("noise", torch.from_numpy(X), torch.arange(12) % 10, tuple(map(str, range(10))))
FEW = Data("noise", DATA.x, DATA.y % 5, DATA.classes)
"""Whose labels need five classes only."""


def nine(handler: Handler) -> None:
    """The answer without its last class."""
    handler.reply(200, handler.write([row[:-1] for row in handler.server.served.answer(handler.rows)]))


def described(served: Served, folder: Path, *more: str) -> str:
    path = folder / "service.toml"
    lines = (f'url = "{served.url}/invocations"', "backoff = 0.01", "tries = 3", *more)
    path.write_text("\n".join(lines))
    return str(path)


def asked(served: Served, folder: Path, *more: str, like: Data = DATA, terms: Terms | None = None) -> Endpoint:
    """An endpoint that has answered about all samples, and rightly."""
    module = load_model(described(served, folder, *more), like=like, terms=terms).module
    found = module(DATA.x).softmax(1)
    np.testing.assert_allclose(found.numpy(), classifier().predict_proba(X.reshape(12, -1)), atol=1e-5)
    endpoint = endpoint_of(module)
    assert endpoint is not None
    return endpoint


def test_too_few_classes_for_the_labels_of_any_sample_are_asked_again(tmp_path: Path) -> None:
    with serving(rude={1: nine, 2: nine}) as served:
        endpoint = asked(served, tmp_path)
        assert (served.requests, endpoint.count().sent, endpoint.count().retried) == (4, 12, 2)


def test_a_bad_spell_at_first_stops_clearly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving(rude=dict.fromkeys(range(1, 100), nine)) as served:
        words = "answered with 9 classes where the data's labels need 10, 3 times; .* goes on where it was; give the model's own data"
        for _ in range(2):
            with pytest.raises(RunError, match=words):
                load_model(described(served, tmp_path), like=DATA)
        assert served.requests == 6
        served.rude.clear()
        assert asked(served, tmp_path).count().sent == 12


def test_a_bad_spell_after_the_first_rows_is_told_by_what_is_known(tmp_path: Path) -> None:
    with serving() as served:
        load_model(described(served, tmp_path), like=FEW, terms=Terms(budget=6))
        served.rude = dict.fromkeys(range(2, 100), nine)
        with pytest.raises(RunError, match=r"9 classes where there were 10, 3 times; .*; what it answered before"):
            load_model(described(served, tmp_path), like=FEW)
        served.rude.clear()
        asked(served, tmp_path, like=FEW)
        assert sorted(served.rows.values()) == [1] * 10 + [4] * 2


@pytest.mark.parametrize("bad", [1, 3, 8])
def test_the_most_of_the_first_answers_say_what_kind_they_are_of(bad: int, tmp_path: Path) -> None:
    """Where each is a request of its own."""
    with serving(rude={bad: nine}) as served:
        endpoint = asked(served, tmp_path, "rows = 1", "in_flight = 1", like=FEW)
        assert sorted(served.rows.values()) == [1] * 11 + [2]
        assert endpoint.count().sent == 12
        assert {len(one) for one in endpoint.store.some(100) if isinstance(one, list)} == {10}


def test_what_a_ledger_has_of_another_kind_is_asked_again_and_the_rest_is_kept(tmp_path: Path) -> None:
    with serving() as served:
        endpoint = asked(served, tmp_path)
        wrong = endpoint.rows()[:5]
        endpoint.store.save({key: [0.2] * 5 for _, key, *_ in wrong[:4]})
        endpoint.store.save({wrong[4][1]: 3})
        asked(served, tmp_path)
        assert sorted(served.rows.values()) == [1] * 7 + [2] * 5
        asked(served, tmp_path)
        assert served.total == 17


def test_where_all_first_answers_were_wrong_the_error_names_the_file_that_keeps_them(tmp_path: Path) -> None:
    with serving(rude={1: nine}) as served:
        with pytest.raises(RunError, match=r"10 classes where there were 9, 3 times; .*, in .*\.sqlite, is of"):
            asked(served, tmp_path, like=FEW)
        (ledger,) = (tmp_path / "cache" / "endpoints").glob("*.sqlite")
        with pytest.raises(RunError) as told:
            asked(served, tmp_path, like=FEW)
        assert str(ledger) in str(told.value)
        ledger.unlink()
        asked(served, tmp_path, like=FEW)


def test_data_with_more_classes_than_the_file_says_are_refused_before_a_question(tmp_path: Path) -> None:
    with serving() as served, pytest.raises(ModelError, match=r"at least 10 classes, .* the file says 5: mend it"):
        load_model(described(served, tmp_path, "classes = 5"), like=DATA)
    assert served.total == 0
