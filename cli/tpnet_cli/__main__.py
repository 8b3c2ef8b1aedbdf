"""``python -m tpnet_cli``: the ``tpnet`` command without its script, as the lab calls it."""

from tpnet_cli.main import main

if __name__ == "__main__":
    main()
