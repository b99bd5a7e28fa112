"""The apps of the installed fedstyle, under the names that `flwr run` looks for."""
