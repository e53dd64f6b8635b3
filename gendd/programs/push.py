"""Sending of a published folder to the Hugging Face Hub."""

from pathlib import Path

import huggingface_hub

from gendd.core.errors import InvalidSetting
from gendd.core.own_code import brief
from gendd.runs.published import FILES


def check_repository(name: str) -> None:
    """Check the name of a repository, and that a token is known.

    Raises:
        InvalidSetting: the name is not owner/name, or no token is known.
    """
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except ValueError as error:
        raise InvalidSetting("push", name, f"{brief(error)}; name the repository owner/name") from error
    if "/" not in name:
        raise InvalidSetting("push", name, "does not name the owner; name the repository owner/name")
    if not huggingface_hub.get_token():
        raise InvalidSetting("push", name, "no token of the hub; log in with hf auth login, or set HF_TOKEN")


def push(folder: Path, repository: str) -> str:
    """Send the published files of a folder to a repository, owner/name; return its address.

    Raises:
        InvalidSetting: the hub does not answer, or refuses.
    """
    hub = huggingface_hub.HfApi()
    try:
        name = hub.create_repo(repository, exist_ok=True).repo_id
        hub.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message="Publish the student"
        )
    except Exception as error:  # The client raises many kinds of errors: its own, its transport's, the disk's.
        reason = f"the hub does not take it ({brief(error)}); {_remedy(error)}"
        raise InvalidSetting("push", repository, reason) from error
    return f"{hub.endpoint}/{name}"


def _remedy(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "give a token that may write there, with hf auth login or HF_TOKEN"
    return "the folder is complete; check the network and HF_HUB_OFFLINE, then run the command again"
