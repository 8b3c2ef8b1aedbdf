"""The control plane of a cluster: objects of the API server. The only importer of ``kubernetes``."""
