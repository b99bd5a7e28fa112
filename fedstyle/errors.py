"""Every error that fedstyle raises on purpose, as one tree.

    FedstyleError
    ├── ConfigError       a configuration key, value or command line option
    ├── PhotoError        a photo library or a content photo
    ├── StyleError        a style image or its parameters
    ├── ParamsError       named tensors: missing, extra, of another shape, corrupt
    │   └── BaseError     a base: not one, altered, or of another architecture
    ├── FilterError       a filter: not one, or altered
    ├── SessionError      a training session's folder
    │   └── Cancelled     a job was cancelled by its owner
    ├── WireError         a message that breaks the federation's contract
    ├── FederationError   a round or a run that cannot go on
    ├── ExportError       a conversion that cannot be made or read
    └── OutputError       a place to write to: taken, full, or read-only

A message says what was found, where, and what to do about it. Messages may name the user's files: they are for the device's own
screen and never cross to a server.
"""


class FedstyleError(Exception):
    """The root: catching it catches all that fedstyle raises on purpose."""


class ConfigError(FedstyleError):
    """A configuration key, value or command line option that fedstyle cannot use."""


class PhotoError(FedstyleError):
    """A photo library or content photo that cannot be used."""


class StyleError(FedstyleError):
    """A style image, strength or density that cannot be used."""


class ParamsError(FedstyleError):
    """Named tensors that do not fit: missing, extra, of another shape, or corrupt."""


class BaseError(ParamsError):
    """A base that is none, was altered, or belongs to another architecture."""


class FilterError(FedstyleError):
    """A filter folder that is none, or was altered."""


class SessionError(FedstyleError):
    """A session folder that is in use, altered, or belongs to other inputs."""


class Cancelled(SessionError):  # noqa: N818  it is no fault
    """A job that its owner cancelled before it had a result."""


class WireError(FedstyleError):
    """A message that breaks the contract between device and server."""


class FederationError(FedstyleError):
    """A round or run that cannot go on, such as one with too few replies."""


class ExportError(FedstyleError):
    """A conversion that cannot be made, or an exported file that cannot be read."""


class OutputError(FedstyleError):
    """A place to write to that is taken, full or read-only."""
