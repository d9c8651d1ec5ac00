"""The names of the numbers of one comparison, and of those that have an interval."""

from __future__ import annotations

METRICS = (
    *("n", "n11", "n10", "n01", "n00", "n_unscored", "scored", "variants"),
    *("accuracy_before", "accuracy_after", "net_change", "forgetting", "backward_transfer"),
    *("forgetting_chance", "forgetting_adjusted", "backward_transfer_adjusted"),
    *("forgetting_max", "backward_transfer_max", "p_value"),
    *("knowledge_lost", "knowledge_gained", "knowledge_lost_net", "knowledge_n"),
    *("knowledge_lost_range_low", "knowledge_lost_range_high", "known_before", "known_lost", "loss_p_value"),
    *("spurious_forgetting", "recall_lost", "recall_still_chosen"),
    *("guess_persistence", "persistence_p_value", "no_forgetting_p_value"),
    *("score_before", "score_after", "score_change", "score_lost"),
    *("bits_per_byte_before", "bits_per_byte_after", "bits_per_byte_change"),
)
INTERVALS = (
    *("forgetting", "backward_transfer", "net_change"),
    *("knowledge_lost", "knowledge_gained", "knowledge_lost_net", "known_before", "known_lost"),
    *("spurious_forgetting", "recall_lost", "recall_still_chosen"),
    *("score_change", "score_lost", "bits_per_byte_change"),
)
