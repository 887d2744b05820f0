//! A SipCluster in a Kubernetes that is a model: a StatefulSet's controller and pods that do as they are told.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::SipCluster;
use crds::status::{Answer, State};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::config::Images;
use operator::sip_cluster::dereference::Found;
use operator::sip_cluster::keys::Keys;
use operator::sip_cluster::observe::{Container, Observation};
use operator::sip_cluster::passwords::{Kind, Passwords};
use operator::sip_cluster::plan::{Decision, decide};
use operator::sip_cluster::redis::Redis;
use operator::sip_cluster::validate::{Valid, validate};
use serde_json::{Value, json};

/// Numbers in a fixed order, from a seed (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The images that come with the operator.
pub fn images() -> Images {
    Images {
        container: "container:1".into(),
        proxy: "proxy:1".into(),
        redis: "redis:1".into(),
        pull_policy: "IfNotPresent".into(),
    }
}

/// A SipCluster as the API server has it, `spec` beside an application.
pub fn cluster(spec: &Value) -> SipCluster {
    let mut cluster = json!({
        "apiVersion": "sipcluster.dev/v1alpha1",
        "kind": "SipCluster",
        "metadata": { "name": "demo", "namespace": "default", "uid": "1-2-3", "generation": 1 },
        "spec": { "application": { "answer": {} } },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        cluster["spec"][field] = value.clone();
    }
    serde_json::from_value(cluster).expect("a SipCluster")
}

/// The dispatcher's Service with an address.
pub fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": "demo" },
        "spec": { "type": "LoadBalancer" },
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } },
    }))
    .expect("a Service")
}

fn proxies(keys: &Keys) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "demo-proxy", "generation": 1 },
        "spec": { "selector": {}, "template": { "metadata": { "annotations": keys.annotations() } } },
    }))
    .expect("a Deployment")
}

fn proxy_pod(ordinal: usize, keys: &Keys) -> Pod {
    serde_json::from_value(
        json!({ "metadata": { "name": format!("demo-proxy-{ordinal}"), "annotations": keys.annotations() } }),
    )
    .expect("a Pod")
}

/// The Service of an instance of Redis.
pub fn redis_service(last: u8) -> Service {
    serde_json::from_value(json!({ "spec": { "clusterIP": format!("10.96.0.{last}") } })).expect("a Service")
}

/// A manifest that is good.
pub fn valid(spec: &Value) -> Valid {
    let found = Found {
        dispatcher: Some(Arc::new(service())),
        redis_services: (1..=5).map(|ordinal| Arc::new(redis_service(ordinal))).collect(),
        ..Found::default()
    };
    validate(&cluster(spec), &found, &images()).expect("a good manifest")
}

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Its process does not run, or not yet.
    Away,
    /// It is being handed its share.
    Joining,
    /// It works.
    Active,
    /// It was told to leave.
    Leaving,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Member {
    pub stand: Stand,
    pub revision: u32,
    pub keys: Keys,
    pub passwords: Passwords,
    since: Timestamp,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    pub now: Timestamp,
    pub valid: Valid,
    pub members: BTreeMap<u16, Member>,
    pub replicas: Option<u16>,
    /// Of the present template.
    pub revision: u32,
    /// Of both templates.
    pub keys: Keys,
    /// Of the proxies' pods.
    pub proxies: Vec<Keys>,
    /// Pods of these revisions never work.
    pub broken: Vec<u32>,
    /// Pods that work and whose pages the operator cannot reach.
    pub unheard: Vec<u16>,
    /// Pods that there may be.
    pub quota: usize,
    /// Instances of the cluster's own Redis, by ordinal.
    pub redis: BTreeMap<u16, Instance>,
    /// Of their present template.
    pub redis_revision: u32,
    /// Of the templates of containers and Redis.
    pub passwords: Passwords,
}

/// A pod of the cluster's own Redis.
#[derive(Clone, Debug)]
pub struct Instance {
    pub in_sync: bool,
    pub revision: u32,
    /// Its process cannot be started.
    pub broken: bool,
    pub passwords: Passwords,
}

impl Model {
    pub fn new(valid: Valid) -> Self {
        let instance = Instance {
            in_sync: true,
            revision: 1,
            broken: false,
            passwords: Passwords::default(),
        };
        let instances = 0..valid.spec.redis_instances() as u16;
        Self {
            redis: instances.map(|ordinal| (ordinal, instance.clone())).collect(),
            redis_revision: 1,
            passwords: Passwords::default(),
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            keys: Keys::default(),
            proxies: vec![Keys::default(); valid.spec.proxies.replicas as usize],
            valid,
            members: BTreeMap::new(),
            replicas: None,
            revision: 1,
            broken: Vec::new(),
            unheard: Vec::new(),
            quota: usize::MAX,
        }
    }

    pub fn wait(&mut self, millis: i64) {
        self.now += SignedDuration::from_millis(millis);
    }

    /// What the operator decides now.
    pub fn decide(&self) -> Decision {
        decide(self.now, &self.valid, &self.found(), &self.observation())
    }

    /// What the API server and the StatefulSet's controller make of it.
    pub fn perform(&mut self, decision: &Decision) {
        let Some(replicas) = decision.replicas else { return };
        self.replicas = Some(replicas);
        let (before, now) = (&self.passwords, &decision.passwords);
        let is_new = |kind| before.annotations(kind) != now.annotations(kind);
        self.revision += u32::from(decision.keys != self.keys || is_new(Kind::Container));
        self.redis_revision += u32::from(is_new(self.valid.redis_kind()));
        self.keys = decision.keys.clone();
        self.passwords = now.clone();
        for pod in decision.leave.iter().filter(|pod| of_redis(pod).is_none()) {
            let ordinal = operator::sip_cluster::dereference::ordinal(pod).expect("a number");
            self.leave(ordinal);
        }
        let over: Vec<_> = self
            .members
            .keys()
            .copied()
            .filter(|ordinal| *ordinal >= replicas)
            .collect();
        over.into_iter().for_each(|ordinal| self.leave(ordinal));
        for ordinal in 0..replicas {
            if self.members.len() >= self.quota {
                break;
            }
            self.members.entry(ordinal).or_insert(Member {
                stand: Stand::Away,
                revision: self.revision,
                keys: self.keys.clone(),
                passwords: self.passwords.clone(),
                since: self.now,
            });
        }
    }

    /// The StatefulSet of Redis makes anew what was deleted, at the present template.
    pub fn replace_redis(&mut self, decision: &Decision, broken: bool) -> Vec<u16> {
        let leaving: Vec<_> = decision.leave.iter().filter_map(|pod| of_redis(pod)).collect();
        for ordinal in &leaving {
            let anew = Instance {
                in_sync: false,
                revision: self.redis_revision,
                broken,
                passwords: self.passwords.clone(),
            };
            self.redis.insert(*ordinal, anew);
        }
        leaving
    }

    fn leave(&mut self, ordinal: u16) {
        if let Some(member) = self.members.get_mut(&ordinal) {
            member.stand = Stand::Leaving;
        }
    }

    /// A pod gets one step further by itself.
    pub fn advance(&mut self, ordinal: u16) {
        let Some(member) = self.members.get_mut(&ordinal) else {
            return;
        };
        match member.stand {
            Stand::Away if self.broken.contains(&member.revision) => {}
            Stand::Away => member.stand = Stand::Joining,
            Stand::Joining => {
                member.stand = Stand::Active;
                member.since = self.now;
            }
            Stand::Active => {}
            Stand::Leaving => drop(self.members.remove(&ordinal)),
        }
    }

    /// The Deployment replaces a proxy, if one is to be replaced.
    pub fn replace_proxy(&mut self) {
        if let Some(old) = self.proxies.iter_mut().find(|keys| **keys != self.keys) {
            *old = self.keys.clone();
        }
    }

    /// Pods that work.
    pub fn active(&self) -> usize {
        self.members
            .values()
            .filter(|member| member.stand == Stand::Active)
            .count()
    }

    /// All that is wanted works, at the present revision, and nothing else is there.
    pub fn is_as_wanted(&self) -> bool {
        let wanted = self.valid.spec.replicas as usize;
        let good = |member: &Member| member.stand == Stand::Active && member.revision == self.revision;
        self.members.len() == wanted && self.members.values().all(good)
    }

    pub fn found(&self) -> Found {
        let set = self.replicas.map(|replicas| -> StatefulSet {
            serde_json::from_value(json!({
                "metadata": { "name": "demo", "generation": 1 },
                "spec": {
                    "replicas": replicas, "selector": {}, "serviceName": "demo",
                    "template": { "metadata": { "annotations": annotations(&self.keys, &self.passwords) } },
                },
                "status": { "observedGeneration": 1, "replicas": replicas, "updateRevision": format!("r{}", self.revision) },
            }))
            .expect("a StatefulSet")
        });
        Found {
            containers: set.map(Arc::new),
            dispatcher: Some(Arc::new(service())),
            proxies: Some(Arc::new(proxies(&self.keys))),
            proxy_pods: (self.proxies.iter().enumerate())
                .map(|(ordinal, keys)| Arc::new(proxy_pod(ordinal, keys)))
                .collect(),
            container_pods: (self.members.iter())
                .map(|(ordinal, member)| Arc::new(pod(*ordinal, member)))
                .collect(),
            redis: Some(Arc::new(redis_set(
                &self.passwords,
                self.valid.redis_kind(),
                self.redis_revision,
            ))),
            redis_pods: self
                .redis
                .iter()
                .map(|(ordinal, instance)| Arc::new(redis_pod(*ordinal, instance, self.valid.redis_kind())))
                .collect(),
            ..Found::default()
        }
    }

    pub fn observation(&self) -> Observation {
        let working = self.active().max(1) as u64;
        let partitions = u64::from(self.valid.spec.partitions);
        // Those that work share all partitions; one that leaves or joins holds none, or the planner would wait for it all the same.
        let mut rest = if self.active() > 0 { partitions % working } else { 0 };
        let containers = self.members.iter().map(|(ordinal, member)| {
            let mut share = 0;
            if member.stand == Stand::Active {
                share = partitions / working + rest;
                rest = 0;
            }
            Container {
                pod: Arc::new(pod(*ordinal, member)),
                ordinal: *ordinal,
                answer: answer(member.stand, share).filter(|_| !self.unheard.contains(ordinal)),
                takeover: None,
                store_trouble: None,
            }
        });
        let containers: Vec<_> = containers.collect();
        Observation {
            unowned: if self.active() > 0 {
                0
            } else {
                self.valid.spec.partitions
            },
            proxies_ready: self.valid.spec.proxies.replicas as u16,
            proxies_unplaced: 0,
            proxy_nodes: Vec::new(),
            proxy_trouble: None,
            proxies_settled: self.proxies.iter().all(|keys| *keys == self.keys),
            redis: Redis::seen(self.now, &self.valid, &self.found()),
            is_current: true,
            is_behind: false,
            revision: self.replicas.map(|_| revision_number(self.revision)),
            unmade: None,
            containers,
        }
    }
}

/// The number of an instance of Redis; nothing for another pod.
fn of_redis(pod: &Pod) -> Option<u16> {
    let name = pod.metadata.name.as_deref()?;
    name.strip_prefix("demo-redis-")?.parse().ok()
}

/// Of a container.
fn annotations(keys: &Keys, passwords: &Passwords) -> BTreeMap<String, String> {
    let all = [keys.annotations(), passwords.annotations(Kind::Container)];
    all.into_iter().flatten().flatten().collect()
}

fn redis_set(passwords: &Passwords, kind: Kind, revision: u32) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": { "name": "demo-redis", "generation": 1 },
        "spec": { "selector": {}, "serviceName": "demo-redis", "template": { "metadata": { "annotations": passwords.annotations(kind) } } },
        "status": { "observedGeneration": 1, "replicas": 1, "updateRevision": format!("r{revision}") },
    }))
    .expect("a StatefulSet")
}

fn redis_pod(ordinal: u16, instance: &Instance, kind: Kind) -> Pod {
    let state = match instance.broken {
        true => json!({ "waiting": { "reason": "ImagePullBackOff" } }),
        false => json!({ "running": {} }),
    };
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("demo-redis-{ordinal}"),
            "labels": { "controller-revision-hash": format!("r{}", instance.revision) },
            "annotations": instance.passwords.annotations(kind),
        },
        "status": {
            "conditions": [{ "type": "Ready", "status": if instance.in_sync { "True" } else { "False" } }],
            "containerStatuses": [{ "name": "redis", "ready": instance.in_sync, "restartCount": 0, "image": "", "imageID": "", "state": state }],
        },
    }))
    .expect("a Pod")
}

/// As `observe` has it.
fn revision_number(revision: u32) -> u64 {
    let member = Member {
        stand: Stand::Active,
        revision,
        keys: Keys::default(),
        passwords: Passwords::default(),
        since: Timestamp::UNIX_EPOCH,
    };
    let container = Container {
        pod: Arc::new(pod(0, &member)),
        ordinal: 0,
        answer: None,
        takeover: None,
        store_trouble: None,
    };
    container.revision().expect("it has a label")
}

fn answer(stand: Stand, partitions: u64) -> Option<Answer> {
    let state = match stand {
        Stand::Away => return None,
        Stand::Joining => State::Joining,
        Stand::Active => State::Active,
        Stand::Leaving => State::Quiescing,
    };
    Some(Answer {
        state,
        replicated: true,
        from_memory: false,
        partitions,
        dialogs: 0,
        load: 0,
    })
}

fn pod(ordinal: u16, member: &Member) -> Pod {
    let ready = member.stand == Stand::Active;
    let mut pod = json!({
        "metadata": {
            "name": format!("demo-{ordinal}"),
            "labels": { "controller-revision-hash": format!("r{}", member.revision) },
            "annotations": annotations(&member.keys, &member.passwords),
        },
        "status": { "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": member.since }] },
    });
    if member.stand == Stand::Leaving {
        pod["metadata"]["deletionTimestamp"] = json!(member.since + SignedDuration::from_secs(3600));
    }
    serde_json::from_value(pod).expect("a Pod")
}
