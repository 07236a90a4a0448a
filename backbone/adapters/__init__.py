"""Adapters of the networks to other libraries' detectors. Each module imports its library; nothing here imports them."""
