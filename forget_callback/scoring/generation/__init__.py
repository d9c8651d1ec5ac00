"""Generation: answers written token by token, greedily or sampled."""
