//! Asks the containers what they hold, and puts together what the planner has to know.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use admin::Takeover;
use crds::status::{Answer, State};
use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use ucf::plan::{Instant, Life, Observed, Part};

use super::dereference::{Found, Made, ordinal};
use super::names::{ADMIN, Names};
use super::pods::{
    ends_in_time, has_ended, has_seen, is_ready, is_running, is_told_to_leave, is_unplaced, is_waiting_after_an_end,
    ready_since, revision_of, trouble, wanted_revision,
};
use super::redis::Redis;
use super::unmade::Unmade;
use super::validate::Valid;

/// A container's pod and what it said.
#[derive(Clone, Debug)]
pub struct Container {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its number.
    pub ordinal: u16,
    /// What it said; nothing if it did not answer.
    pub answer: Option<Answer>,
    /// What it said of its part in the last takeover.
    pub takeover: Option<Takeover>,
    /// Why it does not hear Redis, in its own words.
    pub store_trouble: Option<String>,
}

/// All that was learnt.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Containers by ordinal.
    pub containers: Vec<Container>,
    /// Proxies that serve.
    pub proxies_ready: u16,
    /// The proxies' Deployment has nothing left to do.
    pub proxies_settled: bool,
    /// Proxies that wait for a node, where each has one of its own and the others have nothing left to do: nobody waits for them, for there may be none
    /// for as long as a node is away.
    pub proxies_unplaced: u16,
    /// The addresses of the nodes whose proxies serve, in their order.
    pub proxy_nodes: Vec<IpAddr>,
    /// Why a proxy's pod does not run, such as that another has its ports on every node.
    pub proxy_trouble: Option<String>,
    /// The cluster's own Redis.
    pub redis: Redis,
    /// Partitions that no container says it owns.
    pub unowned: u32,
    /// Whether both StatefulSets are as they were applied last, and the containers' controller has seen it. Otherwise their revisions may be
    /// somebody else's, which nobody is to be replaced for.
    pub is_current: bool,
    /// The cache has not seen yet what was applied last: the StatefulSet's count is not known.
    pub is_behind: bool,
    /// The revision of the containers' template; nothing before there is one.
    pub revision: Option<u64>,
    /// Why a pod that is wanted is not made.
    pub unmade: Option<String>,
}

/// Asks all containers at once; each has a second. If a pod is missing, asks the API server why.
///
/// `applied` is what the API server made of a StatefulSet last.
pub async fn observe(
    client: &Client,
    valid: &Valid,
    found: &Found,
    unmade: &Unmade,
    applied: impl Fn(&str) -> Option<Made>,
) -> Observation {
    let unmade = unmade.why(client, &valid.names, found).await;
    let asked = found.container_pods.iter().filter_map(|pod| Some((pod, ordinal(pod)?)));
    let containers = join_all(asked.map(|(pod, ordinal)| async move {
        let page = ask(pod).await;
        Container {
            pod: pod.clone(),
            ordinal,
            answer: page.as_ref().and_then(Answer::read),
            takeover: page.as_ref().and_then(Takeover::read),
            store_trouble: page
                .as_ref()
                .and_then(|page| Some(page["storeTrouble"].as_str()?.to_owned())),
        }
    }))
    .await;
    let owned: u64 = containers
        .iter()
        .filter_map(|container| container.answer)
        .fold(0, |sum: u64, answer| sum.saturating_add(answer.partitions));
    let (now, set) = (Timestamp::now(), found.containers.as_deref());
    let is_behind = |set: Option<&StatefulSet>, name: &str| {
        set.zip(applied(name))
            .is_some_and(|(set, applied)| Made::of(set).is_behind(&applied))
    };
    Observation {
        unowned: valid
            .spec
            .partitions
            .saturating_sub(u32::try_from(owned).unwrap_or(u32::MAX)),
        proxies_ready: found.proxies.as_deref().map_or(0, proxies_ready),
        proxies_settled: found.proxies.as_deref().is_some_and(|proxies| settled(proxies, 0)),
        proxies_unplaced: valid.host_network().map_or(0, |_| unplaced(found)),
        proxy_nodes: proxy_nodes(&found.proxy_pods),
        proxy_trouble: proxy_trouble(now, &found.proxy_pods),
        redis: Redis {
            is_behind: is_behind(found.redis.as_deref(), &valid.names.redis()),
            ..Redis::seen(now, valid, found)
        },
        is_current: is_current(found, &valid.names, &applied),
        is_behind: is_behind(set, &valid.names.containers()),
        revision: set.and_then(wanted_revision),
        unmade,
        containers,
    }
}

/// Its page `/state`.
async fn ask(pod: &Pod) -> Option<Value> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    let page = admin::client::state(SocketAddr::new(ip, ADMIN as u16)).await.ok()?;
    // Another pod may have the address by now.
    (page["name"].as_str() == pod.metadata.name.as_deref()).then_some(page)
}

impl Observation {
    /// After children were applied: what was observed says nothing of a workload that the API server has given another generation since.
    #[must_use]
    pub fn after(mut self, found: &Found, names: &Names, applied: impl Fn(&str, &str) -> Option<Made>) -> Self {
        let proxies = found.proxies.as_deref().map(Made::of);
        let is_seen = applied("Deployment", &names.proxies()).is_none_or(|applied| {
            proxies.is_some_and(|proxies| proxies.uid == applied.uid && !proxies.is_behind(&applied))
        });
        self.proxies_settled &= is_seen;
        self.proxies_unplaced *= u16::from(is_seen);
        self.is_current = is_current(found, names, &|name| applied("StatefulSet", name));
        self
    }

    /// What the planner has to know. Repair of pods is Kubernetes' work: none is ever `Failed`, only unready.
    #[must_use]
    pub fn planned(&self, valid: &Valid, now: Instant) -> Observed {
        let wanted = valid.spec.replicas as u16;
        let highest = self.containers.iter().map(|container| container.ordinal).max();
        let containers = self.containers.iter().filter(|container| {
            // A StatefulSet gives up its highest pod only. One below that is not wanted, and owns nothing, keeps nobody waiting.
            let is_over = container.ordinal >= wanted && Some(container.ordinal) != highest;
            !(is_over && self.life(container) == Life::Unready && self.unowned == 0)
        });
        let proxies = 0..valid.spec.proxies.replicas as u16;
        Observed {
            redis: valid.has_own_redis().then(|| self.redis.part()),
            containers: containers
                .map(|container| Part {
                    ordinal: container.ordinal,
                    revision: container.revision().unwrap_or_default(),
                    life: self.life(container),
                })
                .collect(),
            proxies: proxies
                .map(|ordinal| Part {
                    ordinal,
                    revision: 0,
                    life: match self.proxies_settled || self.proxies_unplaced > 0 {
                        true => Life::Active {
                            since: now,
                            replicated: true,
                        },
                        false => Life::Unready,
                    },
                })
                .collect(),
            unowned: self.unowned,
        }
    }

    /// For the planner. Others that answer have not taken over what a silent one owns, so its lease stands: it may be short of a processor, and is not
    /// the next to go.
    fn life(&self, container: &Container) -> Life {
        let somebody_answers = || self.containers.iter().any(|other| other.answer.is_some());
        let is_busy = || self.unowned > 0 && is_running(&container.pod) && somebody_answers();
        match container.life() {
            Life::Unready if container.answer.is_none() && is_busy() => Life::Joining,
            life => life,
        }
    }

    /// Answers by the pods' names.
    #[must_use]
    pub fn by_name(&self) -> HashMap<&str, Answer> {
        let named = self.containers.iter();
        named
            .filter_map(|container| Some((container.pod.metadata.name.as_deref()?, container.answer?)))
            .collect()
    }
}

impl Container {
    /// The revision of the template that its pod was made from.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        revision_of(&self.pod)
    }

    /// For the planner.
    #[must_use]
    pub fn life(&self) -> Life {
        if is_told_to_leave(&self.pod) {
            return Life::Leaving;
        }
        // Whoever owns nothing has nothing that could be lost: others have taken it over, because it does not reach Redis, say.
        match self
            .answer
            .map(|answer| (answer.state, answer.replicated || answer.partitions == 0))
        {
            // Its kubelet finds it well, so it may be the way to it that is broken: nothing else moves, and it is not the next to go.
            None if is_ready(&self.pod) => Life::Joining,
            None | Some((State::Starting | State::Silent | State::Failed, _)) => Life::Unready,
            Some((State::Joining, _)) => Life::Joining,
            Some((State::Quiescing | State::Stopping, _)) => Life::Leaving,
            Some((State::Active, replicated)) => match ready_since(&self.pod) {
                Some(since) => Life::Active { since, replicated },
                // It says so, and the kubelet has not noticed yet.
                None => Life::Joining,
            },
        }
    }

    /// For people.
    #[must_use]
    pub fn state(&self) -> State {
        match self.answer.map(|answer| answer.state) {
            Some(State::Quiescing) => State::Quiescing,
            _ if is_told_to_leave(&self.pod) => State::Stopping,
            Some(state) => state,
            None if is_waiting_after_an_end(&self.pod) => State::Failed,
            None if is_ready(&self.pod) => State::Silent,
            None => State::Starting,
        }
    }
}

fn is_current(found: &Found, names: &Names, applied: &impl Fn(&str) -> Option<Made>) -> bool {
    let (containers, redis) = (found.containers.as_deref(), found.redis.as_deref());
    containers.map(Made::of) == applied(&names.containers())
        && redis.map(Made::of) == applied(&names.redis())
        && containers.is_none_or(has_seen)
}

/// The addresses of the nodes that have a proxy which serves, and is not about to end.
#[must_use]
pub fn proxy_nodes(pods: &[Arc<Pod>]) -> Vec<IpAddr> {
    let serving = pods.iter().filter(|pod| is_ready(pod) && !is_told_to_leave(pod));
    let nodes: BTreeSet<IpAddr> = serving
        .filter_map(|pod| pod.status.as_ref()?.host_ip.as_deref()?.parse().ok())
        .collect();
    nodes.into_iter().collect()
}

/// Why one of them does not run. While another ends, one that finds no room may be waiting for just that; but not if its end is overdue, as on a lost node.
#[must_use]
pub fn proxy_trouble(time: Timestamp, pods: &[Arc<Pod>]) -> Option<String> {
    let mut pods = pods.iter().filter(|pod| !has_ended(pod));
    if pods.clone().any(|pod| ends_in_time(time, pod)) {
        return None;
    }
    pods.find_map(|pod| Some(format!("{}: {}", pod.metadata.name.as_deref()?, trouble(pod)?)))
}

fn proxies_ready(deployment: &Deployment) -> u16 {
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.available_replicas).unwrap_or(0);
    u16::try_from(ready).unwrap_or(u16::MAX)
}

/// Every proxy is of the present template and serves, but for these, and none is left over.
fn settled(deployment: &Deployment, unplaced: u16) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else {
        return false;
    };
    let available = status.available_replicas.unwrap_or(0) + i32::from(unplaced);
    status.observed_generation == deployment.metadata.generation
        && [status.replicas, status.updated_replicas, Some(available)]
            .iter()
            .all(|count| *count == spec.replicas)
}

/// How many proxies no node has room for, if some serve and all others do.
#[must_use]
pub fn unplaced(found: &Found) -> u16 {
    let pods = found
        .proxy_pods
        .iter()
        .filter(|pod| !has_ended(pod) && !is_told_to_leave(pod));
    let count = pods.filter(|pod| is_unplaced(pod)).count();
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    let serve = |proxies: &&Deployment| proxies_ready(proxies) > 0 && settled(proxies, count);
    found.proxies.as_deref().filter(serve).map_or(0, |_| count)
}
