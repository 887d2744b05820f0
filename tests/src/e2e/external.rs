//! SipClusters whose Redis is nothing of Kubernetes': on a host outside of it, one server over TLS, and a Redis Cluster.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::beside::{Beside, small_with};
use super::calls::{Calls, OUTSIDE};
use super::nodes::none_lost;
use super::world::{Status, World};
use crate::interop::certificates::Authority;
use crate::interop::network::Namespace;
use crate::interop::redis::{RedisCluster, Server};

/// Of the one server, without TLS and with it.
const PLAIN: u16 = 6379;
const TLS: u16 = 6380;

/// Of the Redis Cluster's first node; the others', and their bus, follow.
const FIRST: u16 = 6400;

/// The SipClusters, and the Secret of the CA.
const OVER_TLS: &str = "over-tls";
const SPREAD: &str = "spread";
const CA: &str = "redis-ca";

/// Of the callers' ports, the first and the step.
const PORTS: (u16, usize) = (6500, 10);

/// A container is killed meanwhile.
const LATEST: Duration = Duration::from_secs(4);

/// Each is called while a container of it is killed.
pub fn outlived(world: &World) -> anyhow::Result<()> {
    let host = world.kubernetes.outside().context("a cluster of our own")?;
    let host = Namespace {
        name: host.into(),
        address: OUTSIDE,
    };
    let files = world.scratch().join("external");
    let authority = Authority::new(&files.join("authority"))?;
    let own = authority.issue(IpAddr::V4(OUTSIDE))?;
    let at = |port| SocketAddr::from((OUTSIDE, port));
    // They are ended when this is over.
    let (_server, cluster) = host.within(|| {
        let server = Server::start_over_tls(at(PLAIN), TLS, &own, &files.join("redis"))?;
        Ok((server, RedisCluster::start(at(FIRST), &files.join("cluster"))?))
    })?;
    let ca = format!("--from-file=ca.crt={}", authority.certificate().display());
    world.kubernetes.kubectl(&["create", "secret", "generic", CA, &ca])?;
    let over_tls = json!({ "url": format!("rediss://{}", at(TLS)), "caSecret": { "name": CA } });
    let spread = json!({ "url": cluster.url(), "instances": 2 });
    let begin = |name, external: &Value| Beside::create(world, "default", name, &small_with(external)?);
    let all = [begin(OVER_TLS, &over_tls)?, begin(SPREAD, &spread)?];
    let mut calls = Vec::new();
    for (beside, port) in all.iter().zip((PORTS.0..).step_by(PORTS.1)) {
        beside.until("it is Ready", Status::is_whole)?;
        let address = beside.status()?.address().context("it has an address")?;
        calls.push((address, Calls::start(world, address, port)?));
    }
    for (beside, name) in all.iter().zip([OVER_TLS, SPREAD]) {
        world.signal(&format!("{name}-0"), libc::SIGKILL)?;
        beside.until("the operator sees it", |status| !status.away().is_empty())?;
        beside.until("both containers work again", Status::is_whole)?;
    }
    for (address, calls) in calls {
        none_lost(address, calls, LATEST)?;
    }
    for beside in all {
        beside.delete()?;
    }
    world.kubernetes.kubectl(&["delete", "secret", CA]).map(drop)
}
