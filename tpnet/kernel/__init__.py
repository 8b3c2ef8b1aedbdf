"""The ground floor: what the Linux kernel and the C library offer, and Python's standard library does not.

Every function here raises ``OSError`` as the kernel gives it; who calls turns that into a sentence for people. Must
never import anything else of tpnet, and knows nothing of targets, sessions or pods.
"""
