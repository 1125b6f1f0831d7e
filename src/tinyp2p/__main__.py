"""`python -m tinyp2p` is the same program as `tinyp2p`."""

from .cli.main import main

if __name__ == "__main__":
    main()
