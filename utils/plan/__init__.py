"""The point of a compressed model that keeps a budget: what its points cost here, which are worth having, which one."""
