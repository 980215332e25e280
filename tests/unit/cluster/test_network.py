"""The choice of a cluster's addresses."""

from ipaddress import IPv4Network
from itertools import pairwise

import pytest

from aurl_dev.cluster.network import (
    BLOCK_PREFIX,
    POOLS,
    Addresses,
    Namespace,
    candidates,
    choose_block,
    networks_in,
)
from aurl_dev.errors import MachineError


def test_first_block_of_the_first_pool_on_an_empty_machine() -> None:
    assert choose_block([]) == IPv4Network("10.192.0.0/22")


@pytest.mark.parametrize(
    "taken",
    [
        ["10.192.0.0/30"],  # another cluster's link
        ["10.192.3.7/32"],  # an address at the end of the block
        ["10.192.0.0/22"],
    ],
)
def test_a_partly_taken_block_is_skipped(taken: list[str]) -> None:
    assert choose_block(map(IPv4Network, taken)) == IPv4Network("10.192.4.0/22")


def test_a_company_network_over_all_of_ten_leads_to_the_next_pool() -> None:
    assert choose_block([IPv4Network("10.0.0.0/8")]) == IPv4Network("172.24.0.0/22")


def test_no_free_block_is_an_error_with_a_message() -> None:
    with pytest.raises(MachineError, match="no block of private addresses is free"):
        choose_block(POOLS)


def test_ranges_of_one_cluster_do_not_overlap_and_stay_in_its_block() -> None:
    addresses = Addresses(IPv4Network("10.192.4.0/22"))
    ranges = [addresses.link, addresses.services, addresses.pods]
    assert all(part.subnet_of(addresses.block) for part in ranges)
    assert not any(a.overlaps(b) for a in ranges for b in ranges if a is not b)
    assert addresses.host in addresses.link
    assert addresses.node in addresses.link
    assert addresses.host != addresses.node


def test_candidates_are_disjoint() -> None:
    blocks = sorted(candidates())
    assert all(block.prefixlen == BLOCK_PREFIX for block in blocks)
    assert not any(a.overlaps(b) for a, b in pairwise(blocks))


def test_routes_of_the_machine_are_read_without_the_default_route() -> None:
    routes: list[dict[str, object]] = [
        {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
        {"dst": "10.192.0.1", "type": "local"},
        {"type": "unreachable", "dst": "fe80::/64"},
    ]
    assert networks_in(routes) == [IPv4Network("192.0.2.0/24"), IPv4Network("10.192.0.1/32")]


def test_interface_names_fit_the_kernel() -> None:
    assert len(Namespace("a-very-long-name-of-a-cluster-0a1b2c").link) <= 15
