"""The agent in a cluster: what the API server's objects ask of this node, and what the node says of itself."""
