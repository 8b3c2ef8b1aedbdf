"""The command line. Nothing imports this; it imports the rest lazily, so that ``tpnet --help`` is quick."""
