"""Other pure functions: volumes, cgroup mounts, the pause archive, the build recipe, names."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from aurl_dev.cluster import binaries, pause
from aurl_dev.cluster.cgroups import hierarchies
from aurl_dev.cluster.local import LocalCluster
from aurl_dev.cluster.provisioner import released, volume_for, wants_volume
from aurl_dev.errors import ClusterError, CommandError


def claim(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "data", "namespace": "music", "uid": "u-1"},
        "spec": {
            "storageClassName": "aurl-local",
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
            **spec,
        },
        "status": {"phase": "Pending"},
    }


def test_a_pending_claim_of_our_class_wants_a_volume() -> None:
    assert wants_volume(claim())


@pytest.mark.parametrize(
    "spec", [{"storageClassName": "other"}, {"volumeName": "mine"}, {"selector": {"matchLabels": {"a": "b"}}}]
)
def test_claims_of_other_provisioners_are_ignored(spec: dict[str, Any]) -> None:
    assert not wants_volume(claim(**spec))


def test_a_volume_is_bound_to_its_claim_alone_and_deleted_by_us_alone() -> None:
    volume = volume_for(claim(), Path("/data"))
    assert volume["spec"]["claimRef"]["uid"] == "u-1"
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volume["spec"]["hostPath"] == {"path": "/data/pvc-u-1", "type": "Directory"}
    volume["status"] = {"phase": "Bound"}
    assert not released(volume)
    volume["status"] = {"phase": "Released"}
    assert released(volume)
    volume["metadata"]["annotations"] = {}
    assert not released(volume)


MOUNTINFO = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_controllers_mounted_together_are_found_under_both_names() -> None:
    found = hierarchies(MOUNTINFO)
    assert set(found) == {"cpu", "cpuacct", "systemd"}
    assert found["cpu"] == found["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")


def test_the_pause_archive_is_a_reproducible_docker_archive() -> None:
    archive = pause.archive(b"program", "localhost/pause:1")
    assert archive == pause.archive(b"program", "localhost/pause:1")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        manifest = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        assert manifest[0]["RepoTags"] == ["localhost/pause:1"]
        assert set(tar.getnames()) == {manifest[0]["Config"], *manifest[0]["Layers"], "manifest.json"}


def test_the_recipe_names_the_cache_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    before = binaries.recipe_hash()
    assert before == binaries.recipe_hash()
    monkeypatch.setitem(binaries.RECIPE, "revision", 999)
    assert binaries.recipe_hash() != before


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../x", "-a", "a-", "x" * 60])
def test_names_that_cannot_be_a_cluster(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name a cluster"):
        LocalCluster(name)


def test_two_state_directories_may_hold_clusters_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURL_STATE", str(tmp_path / "a"))
    first = LocalCluster("same")
    monkeypatch.setenv("AURL_STATE", str(tmp_path / "b"))
    second = LocalCluster("same")
    assert first.sandbox.namespace.name != second.sandbox.namespace.name
    assert first.sandbox.run_dir != second.sandbox.run_dir
    assert first.sandbox.cgroups.path != second.sandbox.cgroups.path


def test_a_failed_command_reports_itself_and_its_output() -> None:
    error = CommandError(["ip", "netns"], 2, "\n".join(f"line {number}" for number in range(100)))
    assert "ip netns" in str(error)
    assert "line 99" in str(error)
    assert "line 1\n" not in str(error)
