"""What is said before a run about how its best checkpoint is chosen."""

import pytest

from forget_callback.runs.rows import ALL_METRICS
from forget_callback.training.remarks import best_model, unknown_best

OURS = {f"eval_forget_facts_{name}": name for name in ("knowledge_lost", "forgetting_low", "drift", "accuracy_after")}


@pytest.mark.parametrize(
    "key, greater, said",
    [
        ("eval_forget_facts_knowledge_lost", False, "mostly the earliest, which learned least"),
        ("forget_facts_knowledge_lost", False, "mostly the earliest"),  # the Trainer takes it without "eval_" too
        ("forget_facts_forgetting_low", False, "mostly the earliest"),
        ("forget_facts_drift", False, "mostly the earliest"),
        ("forget_facts_knowledge_lost", True, "forgot most: set greater_is_better=False"),
        ("forget_facts_accuracy_after", True, ""),
        ("eval_loss", False, ""),
        ("loss", False, ""),
        (None, None, ""),
    ],
)
def test_a_best_model_by_forgetting_alone(key, greater, said):
    found = best_model(key, OURS, greater=greater)
    assert (said in found and repr(key) in found) if said else found == ""


def test_the_trainers_default_keeps_what_forgot_most(tmp_path):
    """Why it is said: only a name that ends in "loss" is better when it is smaller."""
    from transformers import TrainingArguments

    def better(**given):
        known = {"metric_for_best_model": "forget_facts_knowledge_lost", "use_cpu": True, "report_to": "none"}
        return TrainingArguments(str(tmp_path), **known, **given).greater_is_better

    assert better() is True and better(greater_is_better=False) is False


@pytest.mark.parametrize(
    "key, meant",
    [
        ("eval_forget_facts_knowledge_lost", "did you mean 'eval_forget_ten_knowledge_lost'?"),
        ("forget_facts_knowledge_lost_low", "did you mean 'eval_forget_ten_knowledge_lost_low'?"),
        ("forget_ten_knowlege_lost", "did you mean 'eval_forget_ten_knowledge_lost'?"),
        ("forget/ten/drift", "did you mean 'eval_forget_ten_drift'?"),
        ("knowledge_lost", "did you mean 'eval_forget_ten_knowledge_lost'?"),
    ],
)
def test_a_best_model_by_a_number_that_is_not_there_is_remarked(key, meant):
    names = {f"eval_forget_ten_{metric}": metric for metric in ALL_METRICS}
    said = unknown_best(key, names)
    assert repr(key) in said and meant in said


@pytest.mark.parametrize("key", [None, "loss", "eval_loss", "eval_reward", "forget_ten_drift", "eval_forget_ten_drift"])
def test_a_best_model_by_what_is_there_or_is_not_ours_is_not_remarked(key):
    assert unknown_best(key, {"eval_forget_ten_drift": "drift"}) == ""
