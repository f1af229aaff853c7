"""The exit statuses of every command."""

DONE = 0
FAILED = 1  # something went wrong while the command worked
USAGE = 2  # wrong usage, a setting outside its limits, or inputs that do not belong together
INTERRUPTED = 130  # stopped by Ctrl-C, as shells number it
