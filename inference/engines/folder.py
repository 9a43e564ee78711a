"""What a model folder must hold, and whether a hub id leads anywhere. Without torch, so that mistakes show at once."""

from __future__ import annotations

from pathlib import Path

from laconic.rewards.errors import ModelError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
ADAPTER = "adapter_config.json"
CONFIG = "config.json"

_WAIT_SECONDS = 10.0
"""For one answer of the hub."""


def check_model_folder(name: str) -> None:
    """Check that a local folder has all parts of a model; a hub id passes.

    Raises:
        ModelError: names the folder and the missing part.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise ModelError(f"{name}: no such model folder", cure="run the stage that makes it, or mend the path")
        return
    inner = folder / "model"
    if not (folder / CONFIG).is_file() and not is_adapter(name) and ((inner / CONFIG).is_file() or is_adapter(inner)):
        raise ModelError(f"{folder}: not a model folder, but it holds one", cure=f"did you mean {inner}?")
    parts = {CONFIG: (CONFIG,), "weights (*.safetensors)": WEIGHT_FILES, "tokenizer": TOKENIZER_FILES}
    if is_adapter(name):
        parts = {"weights (*.safetensors)": ("adapter_model.*",)}
    for part, patterns in parts.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            raise ModelError(
                f"{folder}: a model folder without {part}",
                cure="save model and tokenizer into the same folder: "
                "model.save_pretrained(folder); tokenizer.save_pretrained(folder)",
            )


def is_adapter(name: str | Path) -> bool:
    """Whether a folder holds a LoRA adapter."""
    return (Path(name) / ADAPTER).is_file()


def check_on_hub(name: str) -> None:
    """Check that a name which is no folder here is a model's on the hub, with a single request.

    Loading would repeat its requests for most of a minute before it said so. What was downloaded before passes.

    Raises:
        ModelError: it is no name that a hub id can have, there is none of that name, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
    except ImportError:
        return  # opening says what is missing
    cure = "name a model folder, or the id of a model on the hub"
    try:
        if isinstance(try_to_load_from_cache(name, CONFIG), str):
            return
        get_hf_file_metadata(hf_hub_url(name, CONFIG), timeout=_WAIT_SECONDS)
    except HFValidationError:
        raise ModelError(f"{name}: no such model folder, and no hub id", cure=cure) from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name}: no such folder, and no such model on the hub", cure=cure) from None
    except HfHubHTTPError:
        return  # the hub knows it: what is the matter shows when it is loaded
    except Exception as error:  # whatever a network can do
        message = f"{name}: no such folder, and the hub cannot be asked ({type(error).__name__}: {error})"
        raise ModelError(message, cure=f"{cure} that this machine can reach") from None
