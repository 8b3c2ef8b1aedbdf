"""The data path: network namespaces, the redirect and its program, the client's own address kept."""
