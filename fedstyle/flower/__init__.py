"""Federation on Flower: the only package that imports flwr, and only flwr's public packages.

Importing this package imports neither flwr nor anything that can open a photo; it sets the switches that must stand before flwr and
Ray are imported: no telemetry, no update check, no chatter. Whatever the user's environment says already is left alone.
"""

import os

_SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_LOG_LEVEL": "CRITICAL",  # every failure becomes a code or a FederationError; Flower's own log would print it twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _SWITCHES.items():
    os.environ.setdefault(_name, _value)
