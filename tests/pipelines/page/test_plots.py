from pipelines.page.plots import curves, lines, training

ROWS = [
    {"method": "random", "budget": 0.1, "value": 0.2, "lo": 0.1, "hi": 0.3},
    {"method": "causal", "budget": 0.5, "value": 0.9, "lo": 0.8, "hi": 1.0},
    {"method": "causal", "budget": 0.1, "value": 0.7, "lo": 0.6, "hi": 0.8},
    {"method": "label", "budget": 0.1, "value": None, "lo": None, "hi": None},
]


def test_each_method_is_a_line_in_order_of_x_and_controls_come_last() -> None:
    found = curves(ROWS, name="method", x="budget")
    assert [curve.name for curve in found] == ["causal", "random"]
    assert list(found[0].x) == [0.1, 0.5]
    assert found[1].is_control


def test_a_value_that_is_missing_draws_nothing() -> None:
    assert all(curve.name != "label" for curve in curves(ROWS, name="method", x="budget"))


def test_the_same_rows_give_the_same_bytes() -> None:
    panels = [("HM", curves(ROWS, name="method", x="budget"))]
    first = lines(panels, x_label="x", y_label="y", log_x=True)
    assert first == lines(panels, x_label="x", y_label="y", log_x=True)
    assert first.startswith(b"\x89PNG")


def test_training_is_drawn_from_its_steps() -> None:
    steps = [{"step": i, "explained_variance": i / 10, "dead": 0.0} for i in range(5)]
    assert training({"main": steps}).startswith(b"\x89PNG")
