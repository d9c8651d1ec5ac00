"""Pure numbers: from two vectors of right and wrong to transitions, estimates and intervals."""
