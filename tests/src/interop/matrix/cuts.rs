//! What befalls the network between nodes: a container, the proxies and Redis each have one of their own.

use std::time::Duration;

use super::{Application, Cell, Fault, LIMIT, Today};
use crate::interop::network::Network;

/// How long a cut lasts once what it leads to is seen, or would be: past the lease, so that nothing is left to be learnt. The length of a fault, which no
/// condition ends.
const CUT: Duration = Duration::from_secs(3);

const REDIS: &[&str] = &["redis"];
const PROXIES: &[&str] = &["proxy-0", "proxy-1"];
const CONTAINERS: &[&str] = &["container-0", "container-1", "container-2"];

/// The cells of an application.
pub fn cells(application: Application) -> Vec<Cell> {
    use Today::Holds;
    let network = Fault::Network;
    let seconds = Duration::from_secs;
    [
        (
            "container cut off from Redis",
            network(|n| taken_over(n, REDIS)),
            Holds,
            seconds(6),
        ),
        (
            "container cut off from all proxies",
            network(|n| taken_over(n, PROXIES)),
            Holds,
            seconds(4),
        ),
        (
            "container cut off from one proxy",
            network(cut_off_from_one_proxy),
            Holds,
            seconds(4),
        ),
        (
            "container cut off from Redis and all proxies",
            network(|n| taken_over(n, &["redis", "proxy-0", "proxy-1"])),
            Holds,
            seconds(6),
        ),
        (
            "container cut off from everything (its node is lost)",
            network(|n| taken_over(n, &["redis", "proxy-0", "proxy-1", "container-1", "container-2"])),
            Holds,
            seconds(4),
        ),
        (
            "container and a proxy cut off together, from all but callers",
            Fault::Balanced(with_its_proxy),
            Holds,
            // A callee answers the proxy that called it, which has nobody to tell before it is back.
            seconds(if application == Application::B2bua { 14 } else { 6 }),
        ),
        (
            "container cut off from the other containers",
            network(cut_off_from_the_others),
            Holds,
            seconds(4),
        ),
        (
            "Redis unreachable for all containers but one",
            network(redis_for_one),
            Holds,
            seconds(6),
        ),
        (
            "Redis unreachable for all containers, then a kill",
            network(redis_for_none),
            Holds,
            seconds(4),
        ),
        (
            "container cut off from Redis and all proxies, another killed when it is back",
            network(another_killed_when_it_is_back),
            Holds,
            seconds(6),
        ),
    ]
    .map(|(name, fault, today, worst)| Cell {
        application,
        name,
        fault,
        today,
        worst,
    })
    .into()
}

/// Partitions that containers 1 and 2 own.
fn elsewhere(network: &Network) -> u64 {
    let others = network.containers();
    others.iter().skip(1).filter_map(|part| part.partitions).sum()
}

/// Container 0 is cut off from the named, until the others have its partitions and for a while longer; then the cut is healed.
fn taken_over(network: &mut Network, from: &[&str]) -> anyhow::Result<()> {
    network.cut("container-0", from)?;
    network.until("the others own everything", LIMIT, |_| {
        elsewhere(network) == network.partitions()
    })?;
    std::thread::sleep(CUT);
    network.heal()
}

/// A node that is lost with both on it, and that callers still find now and then. The two have one another, and what they knew before: the
/// container may answer nothing of what the proxy goes on to send it, and both learn the rest when the node is back.
fn with_its_proxy(network: &mut Network) -> anyhow::Result<()> {
    const ELSEWHERE: &[&str] = &["redis", "proxy-1", "container-1", "container-2"];
    network.cut("container-0", ELSEWHERE)?;
    network.cut("proxy-0", ELSEWHERE)?;
    network.until("the others own everything", LIMIT, |_| {
        elsewhere(network) == network.partitions()
    })?;
    // Then a new one of its name could run.
    network.until_listed(2, LIMIT)?;
    network.heal()
}

/// Nobody takes anything over: the other proxy reaches the container, and the first sends through the other.
fn cut_off_from_one_proxy(network: &mut Network) -> anyhow::Result<()> {
    network.cut("container-0", &["proxy-0"])?;
    std::thread::sleep(CUT * 2);
    network.heal()
}

/// Proxies and Redis vouch for it: it keeps what it owns.
fn cut_off_from_the_others(network: &mut Network) -> anyhow::Result<()> {
    network.cut("container-0", &["container-1", "container-2"])?;
    std::thread::sleep(CUT * 2);
    network.heal()
}

/// Packets are dropped, no connection is closed: all go on from memory. When they have written everything anew, one of them dies.
fn redis_for_none(network: &mut Network) -> anyhow::Result<()> {
    network.cut("redis", CONTAINERS)?;
    network.until("all go on from memory", LIMIT, |containers| {
        containers
            .iter()
            .all(|part| part.replicated == Some(false) && part.from_memory == Some(true))
    })?;
    std::thread::sleep(CUT);
    network.heal()?;
    network.until("every container is replicated", LIMIT, |containers| {
        containers
            .iter()
            .all(|part| part.replicated == Some(true) && part.from_memory == Some(false))
    })?;
    network.two_copies(LIMIT)?;
    network.restart("container-0")
}

/// One of the two that have taken over dies before the first has its share again.
fn another_killed_when_it_is_back(network: &mut Network) -> anyhow::Result<()> {
    taken_over(network, &["redis", "proxy-0", "proxy-1"])?;
    network.restart("container-1")
}

/// The one that reaches Redis is asked to claim everything.
fn redis_for_one(network: &mut Network) -> anyhow::Result<()> {
    network.cut("redis", &["container-1", "container-2"])?;
    network.until("one owns everything", LIMIT, |containers| {
        containers.first().and_then(|part| part.partitions) == Some(network.partitions())
    })?;
    std::thread::sleep(CUT);
    network.heal()
}
