"""The choice of the cluster that a command uses."""

from pathlib import Path

import pytest

from aurl_dev.cluster import provider
from aurl_dev.errors import ClusterError


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AURL_STATE", str(tmp_path))
    return tmp_path


def test_a_kubeconfig_of_somebody_else_is_external(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(state / "elsewhere" / "kubeconfig"))
    assert provider.choose() == "external"


def test_a_kubeconfig_of_ours_is_local_again(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(state / "clusters" / "mine" / "kubeconfig"))
    assert provider.choose() == "local"


def test_without_docker_or_kind_it_is_local(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("PATH", str(state))
    assert provider.choose() == "local"


@pytest.mark.parametrize(
    ("value", "said"), [("/nowhere/config", "does not exist"), ("{0}/a:{0}/b", "one file")]
)
def test_an_unusable_kubeconfig_is_rejected(
    state: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    for name in ("a", "b"):
        (state / name).touch()
    monkeypatch.setenv("KUBECONFIG", value.format(state))
    with pytest.raises(ClusterError, match=said):
        provider.ensure("any")
