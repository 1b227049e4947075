"""The SDK's tests. They need no runtime."""

import logging

# Tests that look at the log use assertLogs. Others print nothing between the results.
logging.getLogger("penstock").addHandler(logging.NullHandler())
logging.getLogger("penstock").propagate = False
# In its debug mode asyncio reports slow steps, of which hostile handlers have some.
logging.getLogger("asyncio").setLevel(logging.ERROR)
