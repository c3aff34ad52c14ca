"""Exit statuses of the command."""

EXIT_REFUSED = 1  # some inputs were refused, the rest was done
EXIT_USAGE = 2  # nothing could be done: wrong option, file or setting
EXIT_BUG = 70  # a mistake of the program's (EX_SOFTWARE of sysexits.h)
EXIT_PIPE = 128 + 13  # who read standard output has closed it: what a shell says of a process that SIGPIPE ended


def refused_status(refused: int, images: int) -> int:
    """The status where images were refused."""
    return EXIT_USAGE if refused == images else EXIT_REFUSED
