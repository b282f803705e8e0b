"""How a model is trained: optimizers, schedules, and a stop between two steps."""
