"""t of a tensor: filters, gradients over the layers of a slice, and the flags that give them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_tools.slerp.errors import InputError
from hala_tools.slerp.factor import Rule, Slice
from hala_tools.slerp.merge_flags import parse_factor

LAYERS = 12
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj", "conv.in_proj", "operator_norm")
NAMES = tuple(f"model.layers.{layer}.{kind}.weight" for layer in range(LAYERS) for kind in KINDS)
NUMBERS = st.floats(-2, 3, allow_subnormal=False)
GRADIENTS = st.lists(NUMBERS, min_size=1, max_size=9).map(tuple)
FILTERS = st.none() | st.sampled_from(("attn", "mlp", "q_proj", "layers.1", "norm", "lm_head", "."))
RULES = st.lists(st.builds(Rule, GRADIENTS, FILTERS), max_size=4).map(tuple)


def interpolated(values: tuple[float, ...], position: float) -> float:
    return float(np.interp(position, np.linspace(0, 1, len(values)), values))


@settings(deadline=None)
@given(GRADIENTS, st.integers(1, 100))
def test_gradient_is_interpolated_between_evenly_spaced_knots(values, layers):
    piece = Slice((Rule(values),))
    for layer in range(layers):
        position = layer / (layers - 1) if layers > 1 else 1.0
        assert piece.position(layer, layers) == position
        assert Rule(values).at(position) == pytest.approx(interpolated(values, position), abs=1e-12)


@settings(deadline=None)
@given(GRADIENTS)
def test_gradient_begins_and_ends_with_its_own_values(values):
    assert (Rule(values).at(0.0), Rule(values).at(1.0)) == (values[0], values[-1])


@settings(deadline=None)
@given(NUMBERS, st.floats(0, 1))
def test_one_value_holds_for_all_layers(value, position):
    assert Rule((value,)).at(position) == value


@settings(deadline=None)
@given(RULES, st.sampled_from(NAMES))
def test_first_match_decides(rules, name):
    expected = None
    for rule in rules:
        if rule.filter is None or name.find(rule.filter) >= 0:
            expected = rule
            break
    assert Slice(rules).rule(name) is expected


def test_name_that_no_filter_matches_has_no_rule():
    rule = Rule((0.1,), "self_attn")
    assert Slice((rule,)).rule("model.layers.0.self_attn.q_proj.weight") is rule
    assert Slice((rule,)).rule("model.layers.0.mlp.up_proj.weight") is None


def test_only_layer_of_a_slice_takes_the_end_of_a_gradient():
    piece = Slice((Rule((0.0, 0.5, 0.75)),), start=3, stop=4)
    assert piece.position(3, LAYERS) == 1.0
    assert Rule((0.0, 0.5, 0.75)).at(piece.position(3, LAYERS)) == 0.75


def test_gradient_runs_from_first_to_last_layer_of_its_own_slice():
    first, second = Slice((), 0, 5), Slice((), 5, 8)
    assert [first.position(layer, 8) for layer in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [second.position(layer, 8) for layer in range(5, 8)] == [0, 0.5, 1]
    assert [Slice((), 5).position(layer, 8) for layer in range(5, 8)] == [0, 0.5, 1]


@settings(deadline=None)
@given(GRADIENTS, st.lists(st.tuples(st.sampled_from(("self_attn", "mlp", "a=b")), GRADIENTS)))
def test_flags_give_one_slice_with_t_behind_the_filters_in_their_order(fallback, filters):
    def text(values):
        return ",".join(map(repr, values))

    (piece,) = parse_factor(text(fallback), [f"{name}={text(values)}" for name, values in filters])
    expected = [Rule(values, name) for name, values in filters]
    assert piece == Slice((*expected, Rule(fallback)))


def test_flags_first_matching_filter_wins():
    (piece,) = parse_factor("0.5", ["q_proj=1", "self_attn=0,0.25", "*=0.75", "mlp=9"])
    found = {
        kind: piece.rule(f"model.layers.2.{kind}.weight").values
        for kind in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    }
    assert found == {
        "self_attn.q_proj": (1.0,),
        "self_attn.k_proj": (0.0, 0.25),
        "mlp.up_proj": (0.75,),
    }


def test_flags_may_hold_spaces():
    assert parse_factor(" 0, 1 ", ["mlp = -0.5, 1e-3"]) == parse_factor("0,1", ["mlp=-0.5,0.001"])


@pytest.mark.parametrize(
    ("t", "filters", "message"),
    [
        ("", [], "--t '': '' is not a finite number"),
        ("half", [], "--t 'half': 'half' is not a finite number"),
        ("0,,1", [], "--t '0,,1': '' is not a finite number"),
        ("0;1", [], "--t '0;1': '0;1' is not a finite number; give one, or several with commas"),
        ("nan", [], "--t 'nan': 'nan' is not a finite number"),
        ("0,inf", [], "--t '0,inf': 'inf' is not a finite number"),
        ("0.5", ["mlp"], "--t-filter 'mlp' has no '='; write NAME=VALUES"),
        ("0.5", ["=0.5"], "--t-filter '=0.5' has no name before '='"),
        ("0.5", [" =0.5"], "--t-filter ' =0.5' has no name before '='"),
        ("0.5", ["mlp="], "--t-filter 'mlp=': '' is not a finite number"),
        ("0.5", ["mlp=1", "attn=x"], "--t-filter 'attn=x': 'x' is not a finite number"),
        ("0.5", ["mlp=0.5=x"], "--t-filter 'mlp=0.5=x': 'x' is not a finite number"),
    ],
)
def test_bad_flag_is_refused_by_its_name_and_value(t, filters, message):
    with pytest.raises(InputError) as error:
        parse_factor(t, filters)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
