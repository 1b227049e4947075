"""The SDK's tests. They need no runtime."""

import logging

# Tests that look at the log use assertLogs. Others print nothing between the results.
logging.getLogger("penstock").addHandler(logging.NullHandler())
logging.getLogger("penstock").propagate = False
