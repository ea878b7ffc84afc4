from analysis_example import make_model, typed, with_selection, without_attention

from inheritune.report.analysis import analysis_verdict, attention_missing, layers_table, models_table, what_is_missing
from inheritune.report.line_charts import draw_measure
from inheritune.report.measures import GRADIENTS


def test_verdict() -> None:
    model = make_model("m", 30, 9) | {"lazy_layers": [23, 24], "collapsed_share": 0.32}
    assert analysis_verdict(typed(model)) == "m: 2 of 30 layers are lazy (23-24), and 32% of 270 heads have collapsed."
    with_selection(model, [2, 0, 1])
    model["selection"]["reason"] = "dropped 17: +0.20; 23 and 24 lazy"
    assert analysis_verdict(typed(model)).endswith(
        " Chosen (auto): 3 of 30 blocks, 0-2; dropped 17: +0.20; 23 and 24 lazy."
    )
    none = make_model("m", 30, 9) | {"lazy_layers": [], "collapsed_share": 0.0}
    assert analysis_verdict(typed(none)) == "m: none of 30 layers is lazy, and 0% of 270 heads have collapsed."


def test_a_hybrid_is_judged_by_the_layers_that_have_attention() -> None:
    model = without_attention(make_model("m", 6), [1, 2]) | {"lazy_layers": [5], "collapsed_share": 0.5}
    assert (
        analysis_verdict(typed(model))
        == "m: 1 of the 4 layers with attention is lazy (5), and 50% of 16 heads have collapsed."
    )
    model["blocks"][0]["attention"]["heads"] = model["blocks"][0]["attention"]["heads"][:1]
    assert attention_missing([typed(model)]) == [
        "m: blocks 1-2 without attention weights, so nothing is drawn there.",
        "m: block 0 with 1 head where others have 4.",
    ]


def test_without_attention_the_reason_is_told() -> None:
    model = without_attention(make_model("m", 2), [0, 1], "its mixers are state-space models.")
    assert analysis_verdict(typed(model)) == "m: which layers are lazy is not known: its mixers are state-space models."
    assert models_table([typed(model)])[1][0][4:7] == ["not known"] * 3
    assert layers_table(typed(model), [0.9])[0][:3] == ["block", "influence", "skipped"]


def test_what_no_block_has_is_neither_drawn_nor_tabled() -> None:
    model = make_model("m", 3)
    for block in model["blocks"]:
        block["gradients"] = None
    assert draw_measure(GRADIENTS, [typed(model)]) is None
    assert what_is_missing([GRADIENTS], [typed(model)]) == [
        "m: Gradient norms of queries and keys (query) was not measured.",
        "m: Gradient norms of queries and keys (key) was not measured.",
    ]
    model["blocks"][1]["skipped"] = None
    header, rows = layers_table(typed(model), [0.9])
    assert "query grad." not in header
    assert rows[1][header.index("skipped")] == "–"
