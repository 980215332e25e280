"""The launcher's environment: every error is one sentence that names its variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurl_trainer.launcher.environment import ContractError, read_environment
from aurl_trainer.launcher.torchrun import rendezvous_endpoint, torchrun_arguments

GOOD = {
    "AURL_JOB_NAME": "chorales", "AURL_JOB_NAMESPACE": "music", "AURL_JOB_UID": "u", "AURL_ATTEMPT": "3",
    "AURL_NODE_RANK": "1", "AURL_NUM_NODES": "2", "AURL_NPROC_PER_NODE": "4",
    "AURL_RDZV_ENDPOINT": "10.0.0.7:29400", "AURL_POD_IP": "10.1.0.3",
    "AURL_CONFIG": "/etc/aurl/job.yaml", "AURL_VOLUME": "/mnt/aurl",
    "AURL_RUN_DIR": "/run/aurl",
    "AURL_HTTP_PORT": "9402", "AURL_GRACE_SECONDS": "60", "AURL_TERMINATION_LOG": "/dev/null",
}  # fmt: skip


def test_the_operators_environment_becomes_torchruns_arguments() -> None:
    environment = read_environment(GOOD)
    assert environment.job_dir == Path("/mnt/aurl/music/chorales")
    assert (environment.world_size, list(environment.local_ranks)) == (8, [4, 5, 6, 7])
    assert torchrun_arguments(environment) == [
        "--nnodes=2", "--nproc-per-node=4", "--node-rank=1", "--rdzv-backend=static",
        "--rdzv-endpoint=10.0.0.7:29400",
        "--rdzv-conf=is_host=0", "--rdzv-id=u-3", "--max-restarts=0", "--local-addr=10.1.0.3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "rank", "used"),
    [
        ("10.0.0.7:29400", "0", "127.0.0.1:29400"),
        ("10.0.0.7:29400", "1", "10.0.0.7:29400"),
        ("[fd00::7]:29400", "0", "[::1]:29400"),
        ("[fd00::7]:29400", "1", "[fd00::7]:29400"),
    ],
)
def test_the_host_of_the_rendezvous_uses_loopback(endpoint: str, rank: str, used: str) -> None:
    environment = read_environment(GOOD | {"AURL_RDZV_ENDPOINT": endpoint, "AURL_NODE_RANK": rank})
    assert rendezvous_endpoint(environment) == used


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AURL_NUM_NODES", "0", "AURL_NUM_NODES is '0' but must be an integer of at least 1."),
        ("AURL_NUM_NODES", "²", "AURL_NUM_NODES is '²' but"),
        ("AURL_NODE_RANK", "", "AURL_NODE_RANK is not set; it must be an integer of at least 0."),
        ("AURL_NODE_RANK", "2", "AURL_NODE_RANK is 2 but must be less than AURL_NUM_NODES, which is 2."),
        ("AURL_RDZV_ENDPOINT", "", "AURL_RDZV_ENDPOINT is not set"),
        ("AURL_RDZV_ENDPOINT", "fd00::7:29400", "an IPv6 address in brackets"),
        ("AURL_RDZV_ENDPOINT", "host", "must be <address>:<port>"),
        ("AURL_POD_IP", "pod-1", "AURL_POD_IP is 'pod-1' but must be an IP address."),
        ("AURL_HTTP_PORT", "70000", "AURL_HTTP_PORT is '70000' but must be an integer between 0 and 65535."),
        (
            "AURL_GRACE_SECONDS",
            "soon",
            "AURL_GRACE_SECONDS is 'soon' but must be a number of seconds, 0 or more.",
        ),
        ("AURL_GRACE_SECONDS", "nan", "AURL_GRACE_SECONDS is 'nan' but"),
        ("AURL_VOLUME", " ", "AURL_VOLUME is not set"),
    ],
)
def test_an_error_names_its_variable(name: str, value: str, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        read_environment(GOOD | {name: value})
    assert words in str(caught.value)


@given(st.sampled_from(sorted(GOOD)), st.text(max_size=40))
def test_wild_values_are_accepted_or_refused_by_name(name: str, value: str) -> None:
    try:
        read_environment(GOOD | {name: value})
    except ContractError as error:
        assert "AURL_" in str(error)
