"""Weights from the Hugging Face hub: out of its local cache without a network, others within seconds or not at all."""

from pathlib import Path

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import EntryNotFoundError

from selmix.errors import DataError

_FILES = ("model.safetensors", "pytorch_model.bin")
# seconds for the hub to answer at all; downloads have the hub's own limits
_PATIENCE = 5.0


def hub_weights(name: str) -> Path | None:
    """Return the file of a timm name's weights, downloaded unless the local cache has it.

    The hub is asked once, without retries, before anything is downloaded: where there is no network, the answer comes
    at once and without noise. `HF_HUB_OFFLINE` is respected.

    Returns:
        The file; None if the weights are not published on the hub.

    Raises:
        DataError: if the weights cannot be had.
    """
    repo, revision = _place(name)
    if repo is None:
        return None
    cached = cached_weights(name)
    if cached is not None:
        return cached
    try:
        for file in _FILES:
            try:
                get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=_PATIENCE)
            except EntryNotFoundError:
                continue
            return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:  # errors of the transport are of no common type from version to version of the hub
        raise unreachable(name, error) from error
    raise DataError(f"the hub's {repo} has none of {', '.join(_FILES)}; download its weights and use timm:{name}@FILE")


def cached_weights(name: str) -> Path | None:
    """Return the file of a timm name's weights in the local cache of the hub, if it is there."""
    repo, revision = _place(name)
    if repo is not None:
        for file in _FILES:
            path = try_to_load_from_cache(repo, file, revision=revision)
            if isinstance(path, str):
                return Path(path)
    return None


def unreachable(name: str, error: Exception) -> DataError:
    """Return the error that says why weights cannot be fetched, and the way without a network."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(
        f"the weights of {name} cannot be fetched ({reason}); download them elsewhere and use timm:{name}@FILE"
    )


def _place(name: str) -> tuple[str | None, str | None]:
    """Return repository and revision (None: the default) of a timm name's weights on the hub."""
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None, None
    repo, _, revision = config.hf_hub_id.partition("@")
    return repo, revision or None
