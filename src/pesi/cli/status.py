"""Exit statuses of the command."""

EXIT_REFUSED = 1  # some inputs were refused, the rest was done
EXIT_USAGE = 2  # nothing could be done: wrong option, file or setting
