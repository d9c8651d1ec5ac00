"""Generation: text decoded token by token, greedy or sampled."""
