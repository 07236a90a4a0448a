"""Settings for a folder of data: what it holds, what the machine can do, a configuration chosen for both."""
