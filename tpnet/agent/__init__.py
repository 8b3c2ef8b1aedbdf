"""The agent of a node: a supervisor that holds the kernel state, and the worker it feeds and watches."""
