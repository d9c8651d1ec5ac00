"""Rules and gates on what is no right and wrong: texts, graded scores, behaviour."""

import numpy as np
import pytest
from scipy import stats

from forget_callback import ForgetMonitor, Generation, History, Probe, Snapshot, StopRule, Text
from forget_callback.report.badge import badge
from forget_callback.report.terminal import changes_markdown
from forget_callback.runs.comparison import compare_checkpoints, overall
from forget_callback.runs.decisions import decide_all
from forget_callback.runs.gate import Gate
from forget_callback.runs.headline import headline
from forget_callback.runs.lost_items import lost_items
from forget_callback.runs.side_by_side import abilities_result
from forget_callback.runs.sides import Side
from forget_callback.runs.stopping import can_fire, decide
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.snapshot import NOISE

N = 80
TEXTS = Probe("text", [Text(f"d{i}", f"Document {i}.") for i in range(N)])
REFUSALS = Probe("refusals", [Generation(f"g{i}", f"Question {i}?", "no", "contains") for i in range(N)])
BITS = np.random.default_rng(0).gamma(9, 0.1, N)


def texts(step, rise=0.0, **columns):
    found = Snapshot(
        "text", TEXTS.fingerprint, step, ids=list(TEXTS.ids), correct=np.ones(N), bits_per_byte=BITS + rise, **columns
    )
    return complete(found, TEXTS)


def answers(step, right, score=None):
    correct = (np.arange(N) < right).astype(float)
    return complete(
        Snapshot("refusals", REFUSALS.fingerprint, step, ids=list(REFUSALS.ids), correct=correct, score=score), REFUSALS
    )


def decided(rule, looks, **options):
    history = History()
    for look in looks:
        history.append(look)
    return decide_all([StopRule.parse(rule) if isinstance(rule, str) else rule], history, history.probes[:1], **options)


@pytest.mark.parametrize(
    "rule, rises, fired",
    [
        ("bits_per_byte_change>0.05", [0.1, 0.1], True),
        ("bits_per_byte_change>0.05", [0.1], False),  # once is not twice in a row
        ("bits_per_byte_change>0.05", [0.04, 0.04], False),
        ("text/bits_per_byte_change>0.05", [-0.2, -0.2], False),
        ("forgetting>0.5", [0.02, 0.02], True),
        ("bits_per_byte_after>0.9", [0.2, 0.2], True),
        (StopRule("bits_per_byte_change", 0.05, strict=True), [0.1] * 6, True),
        (StopRule("bits_per_byte_change", 0.05, strict=True), [0.0] * 6, False),
    ],
)
def test_a_rule_stops_where_texts_are_predicted_worse(rule, rises, fired):
    noise = np.random.default_rng(1).normal(0, 0.02, (len(rises), N))
    looks = [[texts(0)], *([texts(i + 1, rise + noise[i])] for i, rise in enumerate(rises))]
    (decision,) = decided(rule, looks, planned=10)
    assert decision.fired is fired
    assert "%" not in decision.reason.partition("lower bound")[0].removesuffix(", 95% ") or "forgetting" in str(rule)


def test_the_bound_of_a_rule_on_texts_is_a_one_sided_t():
    history = History()
    rise = np.random.default_rng(2).normal(0.05, 0.1, N)
    rows = [history.append([texts(step, change)])[-1] for step, change in ((0, 0.0), (1, rise))]
    decision = decide(StopRule("bits_per_byte_change", 0.02, patience=1), rows)
    error = rise.std(ddof=1) / np.sqrt(N)
    assert decision.bound == pytest.approx(rise.mean() - stats.t.ppf(0.95, N - 1) * error)
    assert decision.reason.startswith(
        f"text/bits_per_byte_change {rise.mean():.4g}, 95% lower bound {decision.bound:.4g}"
    )


def test_a_rule_stops_where_scores_fall_and_one_on_knowledge_where_refusals_do():
    high, low = np.full(N, 0.9), np.full(N, 0.7) - np.arange(N) / 1000
    looks = [[answers(0, N, high)], [answers(1, N, low)], [answers(2, N, low)]]
    (decision,) = decided("score_lost>0.1", looks)
    assert decision.fired and decision.value == pytest.approx(0.9 - low.mean()) and "%" not in decision.reason[:30]
    assert not decided("knowledge_lost>0.05", looks)[0].fired, "nothing crossed the threshold"
    lost = [[answers(0, N)], [answers(1, N - 20)], [answers(2, N - 20)]]
    assert decided("knowledge_lost>0.05", lost)[0].fired and decided("refusals/knowledge_lost>0.05", lost)[0].fired


def test_a_point_rule_on_kl():
    looks = [[texts(0, kl=np.zeros(N))], *([texts(step, kl=np.full(N, 0.2))] for step in (1, 2))]
    assert decided("kl>0.1", looks)[0].fired and not decided("kl>0.3", looks)[0].fired


@pytest.mark.parametrize(
    "rule, said",
    [
        ("knowledge_lost>0.05", "texts have no right and wrong; use a rule on bits_per_byte_change or forgetting"),
        ("score_lost>0.05", "texts have no right and wrong"),
        ("bits_per_byte_change>0.05", ""),
        ("forgetting>0.05", ""),
    ],
)
def test_a_rule_that_texts_have_no_number_for_is_said_to_be_idle(tmp_path, caplog, rule, said):
    monitor = ForgetMonitor([TEXTS], tmp_path, stop=rule)
    monitor.observe(0, [texts(0)])
    idle = [one.getMessage() for one in caplog.records if "can never fire" in one.getMessage()]
    assert bool(idle) == bool(said) and all(said in line for line in idle)
    assert monitor.observe(1, [texts(1, 0.5)]).stop is False
    assert monitor.observe(2, [texts(2, 0.5)]).stop is (said == "")


def test_the_noise_of_a_baseline_that_was_scored_twice_is_kept_with_it(tmp_path):
    monitor = ForgetMonitor([TEXTS], tmp_path)
    seen = monitor.observe(0, [texts(0)], again=[texts(0, np.where(np.arange(N) % 2, 0.04, -0.04))])
    assert seen.snapshots[0].metadata[NOISE] == pytest.approx(0.04)
    stored = Snapshot.load(tmp_path / "forget" / "snapshots" / "text" / "step-00000000.parquet")
    assert stored.metadata[NOISE] == pytest.approx(0.04)
    assert monitor.observe(1, [texts(1, 0.03)]).rows[-1].value("forgetting") == 0
    assert monitor.history["rescored_flips"].iloc[0] == 1, "of the same model more than the floor"


@pytest.mark.parametrize(
    "gate, failed",
    [
        ("bits_per_byte_change>0.05", True),
        ("text/bits_per_byte_change>0.2", False),
        ("all/bits_per_byte_change>0.05", True),
        ("bits_per_byte_change<-0.05", False),
        ("score_lost>0.05", True),
        ("score_change<-0.05", True),
        ("refusals/score_lost>0.5", False),
        ("text/score_lost>0.5", True),  # texts have none: it fails closed
        ("refusals/bits_per_byte_change>0.5", True),
        ("text/knowledge_lost>0.5", True),
        ("kl>1", True),  # was not measured
        ("text/accuracy_after<0.1", True),
    ],
)
def test_gates(gate, failed):
    before = {"text": texts(0), "refusals": answers(0, N, np.full(N, 0.9))}
    after = {"text": texts(1, 0.1), "refusals": answers(1, N, np.full(N, 0.7))}
    rows = compare_checkpoints(before, after)
    found = Gate.parse(gate).judge(rows, before=list(before.values()))
    assert found.failed is failed, found.message
    if "bits" in gate and "refusals" not in gate:
        assert "bits_per_byte_change is 0.1" in found.message and f"{N} texts of" in found.message


def test_a_bound_of_a_gate_and_a_gate_that_fails_what_loses_little():
    before, after = {"text": texts(0)}, {"text": texts(1, np.random.default_rng(3).normal(0.02, 0.1, N))}
    rows = compare_checkpoints(before, after)
    assert Gate.parse("bits_per_byte_change>0.001").judge(rows).failed
    assert not Gate.parse("bits_per_byte_change>0.001", bound="lower").judge(rows).failed
    doubt = Gate.parse("bits_per_byte_change>0.03", inconclusive=True).judge(rows)
    assert doubt.outcome == "inconclusive"
    with pytest.raises(ValueError, match="fails what loses little"):
        Gate.parse("bits_per_byte_change<0.05").require_sense()
    with pytest.raises(ValueError, match="fails what loses little"):
        Gate.parse("score_lost<0.05").require_sense()


def test_the_worst_case_of_texts_and_scores():
    baseline = [texts(0)]
    assert can_fire(StopRule("forgetting", 0.9), baseline) and can_fire(StopRule("bits_per_byte_change", 5), baseline)
    assert can_fire(StopRule("score_lost", 0.5), [answers(0, N, np.full(N, 0.9))])
    assert not can_fire(StopRule("score_lost", 0.5), [answers(0, N, np.full(N, 0.4))])


def test_documents_that_got_worse_are_among_what_was_lost_the_worst_first(tmp_path):
    rise = np.where(np.arange(N) < 3, [0.1 * (i + 1) for i in range(N)], 0.0)
    before, after = (Side("", {"text": one}, probes={"text": TEXTS}) for one in (texts(0), texts(1, rise)))
    found = lost_items(before, after)
    assert [one.id for one in found] == ["d2", "d1", "d0"]
    assert found[0].answer_before == f"{BITS[2]:.3f} bits per byte"
    assert found[0].answer_after == f"{BITS[2] + 0.3:.3f} bits per byte"
    assert (found[0].prompt, found[0].right_before, found[0].right_after) == ("Document 2.", 1, 0)
    history = History()
    history.append([texts(0)])
    history.append([texts(1, rise)])
    table = history.changes(TEXTS, texts(1, rise))
    assert sorted(table["id"]) == ["d0", "d1", "d2"] and set(table["change"]) == {"lost"}
    assert set(table["prompts_right"]) == {0} and table["answer_now"].str.endswith("bits per byte").all()
    history.append([texts(2)])
    assert set(history.changes(TEXTS, texts(2))["change"]) == {"recovered"}


@pytest.mark.parametrize("before, after", [(0.95, 0.55), (0.4, 0.1)])
def test_a_fall_of_scores_that_crosses_no_threshold_is_told_everywhere(before, after):
    spread = np.linspace(-0.02, 0.02, N)
    sides = [{"refusals": answers(step, N * (before > 0.5), at + spread)} for step, at in ((0, before), (1, after))]
    rows = compare_checkpoints(*sides)
    said = headline(rows[-1], among=rows)
    assert said.verdict == "lost" and said.sentence.startswith(
        f"lost in this prompt: mean score {before:.2f} → {after:.2f} ("
    )
    assert "both ways" not in said.sentence and not said.notes
    assert said.share == pytest.approx(1 - after / before)
    (part, *_) = abilities_result(rows)
    assert (part["unit"], part["metric"], part["verdict"]) == ("score", "score_change", "lost")
    assert (part["before"], part["after"], part["value"]) == pytest.approx((before, after, after - before))
    assert part["low"] <= part["value"] < part["high"] < 0
    assert Gate.parse("known_lost>0.5").judge(rows).message.endswith(said.sentence)
    shown = badge(rows)
    assert shown.tone == "lost" and shown.text.startswith(f"refusals score: −{before - after:.2f} [")
    table = changes_markdown(rows)
    assert f"| {before:.2f} | {after:.2f} | 0 of " in table and said.sentence in table.replace("\\", "")


def test_among_several_abilities_the_fall_of_scores_is_told():
    before = {"text": texts(0), "refusals": answers(0, N, np.full(N, 0.95))}
    after = {"text": texts(1), "refusals": answers(1, N, 0.6 + np.arange(N) / 1000)}
    rows = compare_checkpoints(before, after)
    said = headline(overall(rows), among=rows)
    assert said.verdict == "lost" and said.sentence.startswith("lost in task: mean score 0.95 → 0.64 (−0.31 [")


def test_scores_that_stay_are_no_loss_though_none_is_at_the_threshold():
    same = np.linspace(0.3, 0.45, N)
    rows = compare_checkpoints({"refusals": answers(0, 0, same)}, {"refusals": answers(1, 0, same)})
    assert headline(rows[-1]).verdict == "none" and badge(rows).tone == "none"
    nothing = compare_checkpoints({"refusals": answers(0, 0, same * 0)}, {"refusals": answers(1, 0, same * 0)})
    assert headline(nothing[-1]).verdict == "unclear"


def test_a_gate_on_knowledge_that_passes_says_what_was_lost_beside_it():
    before, after = {"text": texts(0), "refusals": answers(0, N)}, {"text": texts(1, 0.2), "refusals": answers(1, N)}
    rows = compare_checkpoints(before, after)
    found = Gate.parse("knowledge_lost>0.05").judge(rows, before=list(before.values()))
    assert found.outcome == "passed" and "text was lost, which knowledge_lost is not of" in found.too_few
    assert "gate it by bits_per_byte_change>VALUE, or whatever was lost by verdict=lost" in found.whole_message
    assert not Gate.parse("refusals/knowledge_lost>0.05").judge(rows).too_few
    kept = compare_checkpoints(before, {"text": texts(1), "refusals": answers(1, N)})
    assert not Gate.parse("knowledge_lost>0.05").judge(kept).too_few


def test_recall_that_is_lost_is_in_the_headline_of_several_abilities():
    ids, kinds = [f"k{i}" for i in range(2 * N)], np.repeat(["choice", "recall"], N)
    options, known = np.where(kinds == "choice", 4.0, np.inf), ["knowledge"] * (2 * N)

    def facts(step, recalled):
        right = np.where(kinds == "recall", float(recalled), 1.0)
        return Snapshot("facts", "f", step, ids=ids, correct=right, kind=kinds, n_choices=options, ability=known)

    rows = compare_checkpoints({"facts": facts(0, 1), "text": texts(0)}, {"facts": facts(1, 0), "text": texts(1)})
    assert ", and 100.0% no longer recalled" in headline(overall(rows), among=rows).sentence
    kept = compare_checkpoints({"facts": facts(0, 1), "text": texts(0)}, {"facts": facts(1, 1), "text": texts(1)})
    assert "recalled" not in headline(overall(kept), among=kept).sentence
