import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapper import noise
from sapper.errors import UsageError
from sapper.threat import NORMS, Threat, norm
from toys import case_of

NAMES = tuple(NORMS)
FAR = {"lower": -100.0, "upper": 100.0}


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def projections(draw, names: tuple[str, ...] = NAMES, most: int = 12):
    """A threat, a sample in its box (often on its edge), and points near, far, outside and with many zeros."""
    name, n, seed = draw(st.sampled_from(names)), draw(st.integers(1, most)), draw(st.integers(0, 10**6))
    budget = draw(st.integers(1, n)) if name == "l0" else Fraction(draw(st.integers(1, 300)), 100)
    lower, upper = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-100.0, 100.0)]))
    threat = Threat(p=NORMS[name], eps=Fraction(budget), lower=lower, upper=upper)
    x = lower + (upper - lower) * random(seed, 3, n)
    x = torch.where(random(seed + 1, 3, n) < draw(st.sampled_from([0, 0.5])), torch.full_like(x, lower), x)
    change = normal(seed + 2, 3, n) * draw(st.sampled_from([1e-3, 0.3, 1.0, 30.0, 3000.0]))
    change = change * (random(seed + 3, 3, n) < draw(st.sampled_from([0.3, 1.0])))
    return threat, x, x + change


def bisected(threat: Threat, x_adv: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The nearest point in l1 or l2 with the box, by bisection of the multiplier of the ball."""
    wanted = x_adv - x

    def point(multiplier: torch.Tensor) -> torch.Tensor:
        moved = wanted / (1 + multiplier) if threat.p == 2 else wanted.sign() * (wanted.abs() - multiplier).clamp_min(0)
        return threat.clip(x + moved)

    low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e9, dtype=x.dtype)
    for _ in range(200):
        middle = (low + high) / 2
        outside = (norm(point(middle) - x, threat.p) > float(threat.eps))[:, None]
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    inside = norm(threat.clip(x_adv) - x, threat.p) <= float(threat.eps)
    return torch.where(inside[:, None], threat.clip(x_adv), point(high))


@given(projections())
def test_what_is_projected_is_legal(drawn) -> None:
    threat, x, x_adv = drawn
    assert threat.legal(threat.project(x_adv, x), x).all()
    assert threat.legal(threat.project(x_adv.float(), x.float()), x.float()).all()


@given(projections())
def test_projecting_twice_changes_nothing_more(drawn) -> None:
    threat, x, x_adv = drawn
    once = threat.project(x_adv, x)
    torch.testing.assert_close(threat.project(once, x), once, rtol=1e-9, atol=1e-9)


@given(projections(names=("l0", "l1", "linf")))
def test_a_legal_point_is_its_own_projection(drawn) -> None:
    threat, x, x_adv = drawn
    legal = x + (threat.project(x_adv, x) - x) * 0.5
    assert torch.equal(threat.project(legal, x), threat.clip(legal))


@given(projections(names=("l1", "l2")))
def test_l1_and_l2_projections_are_the_nearest_points_of_ball_and_box(drawn) -> None:
    threat, x, x_adv = drawn
    torch.testing.assert_close(threat.project(x_adv, x), bisected(threat, x_adv, x), rtol=1e-6, atol=1e-6)


@given(projections(names=("l1", "l2", "linf")), st.integers(0, 10**6))
def test_no_legal_point_is_nearer_than_the_projection(drawn, seed: int) -> None:
    """The nearest point z of a convex set to w is the one with (w - z)·(y - z) <= 0 for every y of the set."""
    threat, x, x_adv = drawn
    nearest = threat.project(x_adv, x)
    for number in range(20):
        other = threat.clip(x + normal(seed + number, *x.shape) * 10.0 ** (number % 5 - 3))
        step = other - x  # into the ball by shrinking, which stays in the box
        other = x + step * (float(threat.eps) / norm(step, threat.p)[:, None].clamp_min(float(threat.eps)))
        for legal in (other, 0.99 * nearest + 0.01 * other):
            uphill = ((x_adv - nearest) * (legal - nearest)).sum(1)
            assert (uphill <= 1e-6 * (1 + (x_adv - nearest).norm(dim=1) * (legal - nearest).norm(dim=1))).all()


@given(projections(names=("l0",), most=7))
def test_l0_projection_is_the_best_of_all_choices_of_features(drawn) -> None:
    threat, x, x_adv = drawn
    count, n = int(threat.eps), x.shape[1]
    nearest = (threat.project(x_adv, x) - x_adv).norm(dim=1)
    for chosen in itertools.combinations(range(n), count):
        other = x.clone()
        other[:, chosen] = threat.clip(x_adv[:, chosen])
        assert (nearest <= (other - x_adv).norm(dim=1) * (1 + 1e-12)).all()


@given(projections(names=("linf",)))
def test_linf_projection_clamps_each_feature_into_ball_and_box(drawn) -> None:
    threat, x, x_adv = drawn
    eps = float(threat.eps)
    expected = x_adv.clamp((x - eps).clamp_min(threat.lower), (x + eps).clamp_max(threat.upper))
    assert torch.equal(threat.project(x_adv, x), expected)


@pytest.mark.parametrize("text", ["l2:0.5", "l2:0.001", "l1:3", "l0:5"])
def test_projecting_large_sparse_changes_in_float32_spends_the_whole_budget(text: str) -> None:
    threat = Threat.parse(text)
    for scale in (0.01, 1.0, 100.0):
        x = random(1, 4, 4_000, dtype=torch.float32)
        change = normal(2, 4, 4_000).float() * (random(3, 4, 4_000) < 0.5) * scale
        projected = threat.project(x + change, x)
        assert threat.legal(projected, x).all()
        wanted = threat.distance(threat.clip(x + change), x).clamp_max(threat.budget(4_000))
        assert (threat.distance(projected, x) > (1 - 1e-3) * wanted).all()


def test_a_feature_that_cannot_move_costs_the_others_nothing() -> None:
    """A huge wish out of the box beside a small one: float32 must not lose the small one in the sum."""
    x = torch.tensor([[0.0, 0.5, 0.5]])
    projected = Threat.parse("l2:0.1").project(x + torch.tensor([[-10_000.0, 0.3, 0.4]]), x)
    torch.testing.assert_close(projected, torch.tensor([[0.0, 0.56, 0.58]]))


def test_without_a_budget_only_the_box_holds() -> None:
    threat, x = Threat.parse("l2:min"), torch.full((1, 3), 0.5)
    far = torch.tensor([[-7.0, 0.2, 9.0]])
    assert threat.project(far, x).tolist() == torch.tensor([[0.0, 0.2, 1.0]]).tolist()
    assert threat.legal(threat.clip(far), x).all()
    assert not threat.legal(far, x).any()
    assert Threat.parse("l0:min").budget(784) == 784


@pytest.mark.parametrize("name", NAMES)
def test_what_is_outside_ball_or_box_or_not_a_number_is_not_legal(name: str) -> None:
    threat = Threat.parse(f"{name}:1" if name == "l0" else f"{name}:0.1")
    x = torch.full((1, 4), 0.5)
    outside = x + torch.tensor([[0.11, 0.11, 0.0, 0.0]])
    assert threat.legal(x, x).all()
    assert threat.legal(x + torch.tensor([[0.1, 0.0, 0.0, 0.0]]), x).all()
    assert not threat.legal(outside, x).any()
    assert not threat.legal(x + torch.tensor([[math.nan, 0.0, 0.0, 0.0]]), x).any()
    edge = torch.full((1, 4), 0.95)
    assert not threat.legal(edge + torch.tensor([[0.06, 0.0, 0.0, 0.0]]), edge).any()


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_an_infinite_box_does_not_make_everything_legal(name: str) -> None:
    threat = Threat.parse(f"{name}:0.1", lower=-math.inf, upper=math.inf)
    x = torch.zeros(1, 4)
    assert not threat.legal(x + 5, x).any()
    assert threat.legal(threat.project(x + 5, x), x).all()


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_large_values_are_judged_by_their_own_rounding(name: str) -> None:
    threat = Threat.parse(f"{name}:0.0014", lower=1000, upper=1001)
    x = 1000 + random(0, 50, 20, dtype=torch.float32)
    assert threat.legal(threat.project(x + 1, x), x).all()
    assert not threat.legal(threat.clip(x + 0.1), x).any()


def brute_best(threat: Threat, x: torch.Tensor, gradient: torch.Tensor, size: float) -> float:
    """The least gradient·move over all moves of this size in the box, by trying every corner of that polytope."""
    down = -gradient[0].sign()
    room = torch.where(down > 0, threat.upper - x[0], x[0] - threat.lower)
    if threat.p == math.inf:
        return float(-(gradient[0].abs() * room.clamp_max(size)).sum())
    if threat.p == 0:
        gains = (gradient[0].abs() * room).tolist()
        return -max(sum(part) for part in itertools.combinations(gains, min(int(size), len(gains))))
    best = 0.0
    for order in itertools.permutations(range(x.shape[1])):
        left, gain = size, 0.0
        for feature in order:
            step = min(left, float(room[feature]))
            gain, left = gain + step * float(gradient[0, feature].abs()), left - step
        best = max(best, gain)
    return -best


@given(st.sampled_from(["l0", "l1", "linf"]), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
def test_descending_is_the_steepest_step_within_the_box(name: str, n: int, seed: int, ties: bool) -> None:
    size = float(1 + seed % n) if name == "l0" else 0.1 + 1.5 * float(random(seed, 1))
    threat = Threat(p=NORMS[name], eps=Fraction(size))
    x, gradient = random(seed + 1, 1, n), normal(seed + 2, 1, n)
    gradient = (2 * gradient).round() if ties else gradient
    moved = threat.descend(x, gradient, size) - x
    assert float((moved * gradient).sum()) == pytest.approx(brute_best(threat, x, gradient, size), abs=1e-9)
    assert norm(moved, threat.p) <= size + 1e-9
    assert threat.legal(x + moved, x).all()


@given(st.sampled_from(NAMES), st.integers(1, 20), st.integers(0, 10**6))
def test_no_random_step_falls_more_than_descending(name: str, n: int, seed: int) -> None:
    size = float(1 + seed % n) if name == "l0" else 0.7
    threat = Threat(p=NORMS[name], eps=Fraction(size), lower=-3.0, upper=3.0)
    x, gradient = 2 * random(seed + 1, 1, n) - 1, normal(seed + 2, 1, n)
    fall = float(((threat.descend(x, gradient, size) - x) * gradient).sum())
    case = case_of(x.expand(200, n), threat, seed=seed)
    others = threat.sample(case.x, case.key, case.age)
    assert (((others - x) * gradient).sum(1) >= fall - 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-9, 1e30])
def test_the_step_does_not_depend_on_the_size_of_the_gradient(name: str, scale: float) -> None:
    threat = Threat.parse(f"{name}:3" if name == "l0" else f"{name}:0.5", **FAR)
    x, gradient = torch.zeros(5, 1, 3, 4), normal(0, 5, 1, 3, 4).float()
    full = threat.descend(x, gradient, 3.0)
    torch.testing.assert_close(threat.descend(x, gradient * scale, 3.0), full)
    if name != "l0":
        torch.testing.assert_close(norm(full, threat.p), torch.full((5,), 3.0))
    else:
        assert norm(full, 0.0).tolist() == [3] * 5


@pytest.mark.parametrize("name", NAMES)
def test_the_step_of_a_row_does_not_depend_on_its_batch_mates(name: str) -> None:
    threat = Threat.parse(f"{name}:3" if name == "l0" else f"{name}:0.5")
    x, gradient = random(0, 6, 8), normal(1, 6, 8) * torch.logspace(-12, 12, 6, dtype=torch.float64)[:, None]
    together = threat.descend(x, gradient, 3.0)
    for row in range(6):
        alone = threat.descend(x[row : row + 1], gradient[row : row + 1], 3.0)
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_gradient_stays(name: str) -> None:
    threat, x = Threat.parse(f"{name}:1"), torch.full((1, 4), 0.5)
    assert torch.equal(threat.descend(x, torch.zeros(1, 4), 1.0), x)


def test_a_step_in_l0_is_of_one_feature_at_least() -> None:
    """eps/steps is below 1 for most budgets; rounded down the attack would never move."""
    x = torch.full((1, 4), 0.5)
    moved = Threat.parse("l0:3").descend(x, torch.tensor([[1.0, -4.0, 2.0, 3.0]]), 0.3)
    assert moved.tolist() == [[0.5, 1.0, 0.5, 0.5]]


@pytest.mark.parametrize(("name", "n"), [("l1", 3), ("l2", 3), ("l2", 10), ("linf", 3), ("l1", 1), ("l2", 1)])
def test_samples_are_uniform_in_the_ball(name: str, n: int) -> None:
    """In a uniform ball of n dimensions the n-th power of the radius is uniform; the radius itself is not."""
    threat = Threat.parse(f"{name}:0.5", **FAR)
    case = case_of(torch.zeros(4000, n, dtype=torch.float64), threat)
    change = threat.sample(case.x, case.key, case.age)
    power = (norm(change, threat.p) / 0.5).pow(n).sort().values
    assert power.max() < 1
    assert (power - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.95 / math.sqrt(4000)
    spread = change.std(0)
    assert (change.mean(0).abs() < 4 * spread / math.sqrt(4000)).all()
    assert (spread / spread.mean() - 1).abs().max() < 0.1
    assert ((change > 0).double().mean(0) - 0.5).abs().max() < 0.04


def test_samples_in_l0_choose_every_feature_equally_often_and_fill_the_box() -> None:
    threat = Threat.parse("l0:3", lower=-1.0, upper=2.0)
    case = case_of(torch.full((4000, 8), 0.5, dtype=torch.float64), threat)
    drawn = threat.sample(case.x, case.key, case.age)
    moved = drawn != case.x
    assert (moved.sum(1) == 3).all()
    assert (moved.double().mean(0) - 3 / 8).abs().max() < 0.04
    values = ((drawn[moved] + 1) / 3).sort().values
    assert (values - (torch.arange(len(values)) + 0.5) / len(values)).abs().max() < 1.95 / math.sqrt(len(values))


@given(projections())
def test_samples_are_legal(drawn) -> None:
    threat, x, _ = drawn
    for rows in (x, x.float()):
        case = case_of(rows, threat)
        assert threat.legal(threat.sample(case.x, case.key, case.age), rows).all()


def test_samples_of_one_sample_differ_by_age_but_repeat_by_key() -> None:
    threat, case = Threat.parse("l2:0.5"), case_of(torch.full((4, 6), 0.5), Threat.parse("l2:0.5"))
    first = threat.sample(case.x, case.key, case.age)
    assert torch.equal(first, threat.sample(case.x, case.key, case.age))
    assert (first != threat.sample(case.x, case.key, case.age + 1)).any(1).all()
    assert (first != threat.sample(case.x, noise.keys(1, case.index), case.age)).any(1).all()


@given(projections(), st.integers(1, 16))
def test_what_is_submitted_is_on_the_grid_legal_and_stays_as_it_is(drawn, bits: int) -> None:
    threat, x, x_adv = drawn
    threat = Threat(p=threat.p, eps=threat.eps, lower=threat.lower, upper=threat.upper, quantize=bits)
    for dtype in (torch.float64, torch.float32):
        clean = threat.rounded(x.to(dtype))
        wanted = threat.project(x_adv.to(dtype), clean)
        submitted = threat.submit(wanted, clean)
        assert threat.legal(submitted, clean).all()
        assert torch.equal(threat.submit(submitted, clean), submitted)
        assert torch.equal(threat.rounded(submitted), submitted)
        assert torch.equal(threat.submit(clean, clean), clean)


def test_rounding_to_the_grid_goes_towards_the_sample_and_keeps_whole_levels() -> None:
    threat = Threat.parse("linf:8/255", quantize=8)
    x = torch.tensor([[100.0, 100.0, 100.0, 0.0]]) / 255
    wanted = torch.tensor([[108.0, 92.0, 104.9, 7.2]]) / 255
    assert (threat.submit(wanted, x) * 255).round().tolist() == [[108, 92, 104, 7]]


def test_without_a_grid_everything_is_submitted_as_it_is() -> None:
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    threat = Threat.parse("linf:1")
    assert threat.submit(x, x) is x
    assert threat.rounded(x) is x


@pytest.mark.parametrize(
    ("text", "p", "budget"),
    [
        ("linf:8/255", math.inf, 8 / 255),
        ("l2:0.5", 2, 0.5),
        ("l0:112", 0, 112),
        ("l0:14.5%", 0, 113.68),
        ("l0:min", 0, 784),
        ("l1:10", 1, 10),
        ("linf:min", math.inf, math.inf),
        (" LINF:0.3 ", math.inf, 0.3),
        ("l0:100%", 0, 784),
    ],
)
def test_threats_are_read(text: str, p: float, budget: float) -> None:
    threat = Threat.parse(text)
    assert threat.p == p
    assert threat.budget(784) == budget


@pytest.mark.parametrize("text", ["linf:8/255", "l2:0.5", "l0:112", "l0:14.5%", "linf:min", "l0:min", "l1:1e-05"])
def test_threats_are_written_as_they_were_read(text: str) -> None:
    assert str(Threat.parse(text)) == text


@given(st.sampled_from(NAMES), st.fractions(min_value=Fraction(1, 10**15), max_value=10**9), st.booleans())
def test_every_budget_survives_writing_and_reading(name: str, eps: Fraction, share: bool) -> None:
    share = share and name == "l0"
    eps = min(eps, Fraction(1)) if share else eps + (name == "l0")
    threat = Threat(p=NORMS[name], eps=eps, share=share)
    assert Threat.parse(str(threat)) == threat


@pytest.mark.parametrize(
    "text",
    [
        "", "linf", "linf:", "l3:1", "0.3", "linf=0.3", "linf:abc", "linf:0", "linf:-1", "linf:0/5", "linf:1/0", "l2:nan",
        "l2:inf", "linf:10%", "l0:101%", "l0:0%", "l0:0.5", "linf:8/255/2", "l0:minimum",
    ],
)  # fmt: skip
def test_what_is_no_threat_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected|did you mean"):
        Threat.parse(text)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("linf:0.1", {"lower": 1.0, "upper": 0.0}),
        ("linf:0.1", {"lower": 0.5, "upper": 0.5}),
        ("l2:0.1", {"lower": math.nan, "upper": 1.0}),
        ("l0:3", {"upper": math.inf}),
        ("l1:3", {"lower": -math.inf}),
        ("linf:0.1", {"upper": math.inf, "quantize": 8}),
        ("linf:0.1", {"quantize": 0}),
        ("linf:0.1", {"quantize": -8}),
    ],
)
def test_boxes_and_grids_that_cannot_be_are_refused(text: str, options: dict) -> None:
    with pytest.raises(UsageError, match=r"bounds|quantize"):
        Threat.parse(text, **options)


def test_l0_counts_features_and_so_each_colour_for_itself() -> None:
    change = torch.zeros(1, 3, 2, 2)
    change[0, :, 0, 0] = 1e-7
    assert norm(change, 0.0).tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_features_exactly(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 3072, dtype=dtype)
    x_adv = (torch.arange(3072) < 1001).to(dtype)[None]
    threat = Threat.parse("l0:1000")
    assert not threat.legal(x_adv, x).any()
    assert int((threat.project(x_adv, x) != x).sum()) == 1000
    share = Threat.parse("l0:14.5%")
    assert int((share.project(torch.ones_like(x), x) != x).sum()) == 445
    assert share.legal(share.project(torch.ones_like(x), x), x).all()


@given(
    st.integers(1, 16), st.floats(-3, 3), st.floats(0.01, 300), st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_grids_next_inputs_to_either_side(bits: int, lower: float, width: float, shares: list, dtype) -> None:
    threat = Threat.parse("l2:1", lower=lower, upper=lower + width, quantize=bits)
    values = lower + width * torch.tensor(shares, dtype=dtype)
    above, below, step = threat.at_least(values), threat.at_most(values), threat.width / (2**bits - 1)
    slack = 1e-3 * step + 4 * torch.finfo(dtype).eps * (abs(lower) + width)
    assert (above >= values).all()
    assert (below <= values).all()
    assert (above - values < step + slack).all()
    assert (values - below < step + slack).all()
    assert threat.at_least(above).equal(above)
    assert threat.at_most(below).equal(below)
    x = threat.rounded(torch.full_like(values, lower))
    if bits <= 8:
        legal = above <= threat.upper
        assert threat.submit(above, x)[legal].equal(above[legal])  # on the grid it is what is submitted


def test_without_a_grid_every_number_is_the_next() -> None:
    values = torch.rand(5)
    threat = Threat.parse("l2:1")
    assert threat.at_least(values) is values
    assert threat.at_most(values) is values
