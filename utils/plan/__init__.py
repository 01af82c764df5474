"""The point of a compressed model that keeps a budget: what its points cost here, which are worth having, which one."""

#: What a written model holds beside its weights: the whole plan, and which point it is.
PLAN_FILE = "plan.json"
