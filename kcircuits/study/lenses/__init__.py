"""Head roles, attention and logit lens of a run."""
