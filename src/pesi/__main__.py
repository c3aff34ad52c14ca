"""`python -m pesi`: the same as `pesi`."""

from pesi.cli.app import main

if __name__ == "__main__":
    main()
