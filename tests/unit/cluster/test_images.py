"""An image is rebuilt if and only if one of its inputs has changed."""

from pathlib import Path

import pytest

from aurl_dev.cluster.image_sources import requirements, tree_hash
from aurl_dev.cluster.images import content_hash


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {
        "images/install.py": "steps",
        "images/operator/Containerfile": "FROM base",
        "operator/requirements.lock": "kopf==1",
        "operator/aurl_operator/main.py": "print()",
        "trainer/aurl_trainer/main.py": "print()",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        "images/install.py",
        "images/operator/Containerfile",
        "operator/requirements.lock",
        "operator/aurl_operator/main.py",
        "operator/aurl_operator/new.py",
    ],
)
def test_any_input_changes_the_hash(checkout: Path, changed: str) -> None:
    before = content_hash("operator", checkout)
    (checkout / changed).write_text("something else")
    assert content_hash("operator", checkout) != before


@pytest.mark.parametrize(
    "other",
    [
        "trainer/aurl_trainer/main.py",
        "operator/aurl_operator/__pycache__/main.cpython-311.pyc",
        "operator/aurl_operator.egg-info/PKG-INFO",
        "README.md",
    ],
)
def test_other_files_do_not_change_the_hash(checkout: Path, other: str) -> None:
    before = content_hash("operator", checkout)
    (checkout / other).parent.mkdir(parents=True, exist_ok=True)
    (checkout / other).write_text("something else")
    assert content_hash("operator", checkout) == before


def test_the_base_image_is_part_of_the_hash(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_hash("operator", checkout)
    monkeypatch.setenv("AURL_BASE_IMAGE", "python:3.11-slim")
    assert content_hash("operator", checkout) != before


def test_moving_text_from_one_file_to_the_next_changes_the_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("xy")
    (tmp_path / "b").write_text("")
    before = tree_hash([tmp_path], tmp_path)
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("y")
    assert tree_hash([tmp_path], tmp_path) != before


def test_the_cuda_image_differs_from_the_trainer_only_in_the_pytorch_build() -> None:
    usual, other = requirements("trainer").splitlines(), requirements("trainer-cuda").splitlines()
    assert content_hash("trainer-cuda") == content_hash("trainer")
    (changed,) = [pair for pair in zip(usual, other, strict=True) if pair[0] != pair[1]]
    assert changed[0].startswith("torch==") and changed[1] == changed[0].replace("==", "===")
