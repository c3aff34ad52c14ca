"""`python -m pesi`: the same as `pesi`."""

from pesi.cli.app import command

if __name__ == "__main__":
    command()
