"""For all tests: one thread per process, no network, no trackers."""

import os
import signal

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LACONIC_TRACKER": "none",
}

# A shell that starts the tests in the background makes all their processes ignore Ctrl-C; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files that start processes come first: at the end no worker shall be left alone with the longest of them."""
    long = {item.path for item in items if item.get_closest_marker("distributed")}
    items.sort(key=lambda item: item.path not in long)
