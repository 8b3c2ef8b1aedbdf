"""A network in namespaces of this machine to try tpnet in: clients, a node with a shop, two laptops."""
