"""Which distribution this is, and the other one whose module and command have the same name.

`pip install landscape` brings landscapes for terminals, `pip install loss-atlas` this package. Both write to the folder
`landscape` and to the command `landscape`, so in one environment each overwrites files of the other.
"""

VERSION = "0.1.0"


def other_landscape() -> str:
    """What to do about the other distribution, or nothing where it is not installed."""
    import importlib.metadata  # not at the top: it costs as much as the rest of the package

    try:
        version = importlib.metadata.version("landscape")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return (
        f"the distribution landscape {version} is installed too (pictures for terminals, not this package); its files "
        "and ours overwrite each other. Do: pip uninstall landscape; pip install --force-reinstall --no-deps loss-atlas"
    )
