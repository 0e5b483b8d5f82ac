"""For all tests: signals are as at a terminal, however the tests were started."""

import signal

# A shell that starts a job in the background lets it ignore SIGINT, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
