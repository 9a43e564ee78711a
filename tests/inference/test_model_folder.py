"""What is said of a name that is no model, before any library is loaded."""

import pytest

from laconic.inference.engines.folder import check_model_folder, check_on_hub
from laconic.rewards.errors import ModelError


def test_the_model_within_a_folder_is_named(tmp_path):
    (tmp_path / "stage" / "model").mkdir(parents=True)
    (tmp_path / "stage" / "model" / "config.json").touch()
    with pytest.raises(ModelError) as refused:
        check_model_folder(str(tmp_path / "stage"))
    assert refused.value.cure == f"did you mean {tmp_path / 'stage' / 'model'}?"
    with pytest.raises(ModelError, match="without weights"):
        check_model_folder(str(tmp_path / "stage" / "model"))


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.file_download.ENDPOINT", "http://127.0.0.1:9", raising=False)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    with pytest.raises(ModelError, match="no such folder, and the hub cannot be asked"):
        check_on_hub("nowhere-to-be-found")
    with pytest.raises(ModelError, match="no hub id"):
        check_on_hub("two words")
