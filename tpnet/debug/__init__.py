"""Node debugging: what root on a node needs to see packets and connections. The only place that may import scapy.

Nothing imports this package; it must never be on the way of a request.
"""
